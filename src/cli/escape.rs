//! Escapes in command-line texts, such as `\n`, as llama.cpp reads them.

use crate::cli::failure::Failure;

/// Replaces the escapes in a text given with `flag`. An unknown escape stays unchanged, backslash included.
///
/// # Errors
/// If hexadecimal bytes do not form UTF-8.
pub fn unescaped(flag: &str, text: &str) -> Result<String, Failure> {
    let bytes = text.as_bytes();
    let mut all = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let known = if bytes[at] == b'\\' { escape(&bytes[at + 1..]) } else { None };
        let (byte, n) = known.map_or((bytes[at], 1), |(byte, n)| (byte, n + 1));
        all.push(byte);
        at += n;
    }
    String::from_utf8(all).map_err(|_| {
        Failure::usage(format!("{flag}: not UTF-8 after its escapes are replaced"))
            .with_hint(r"write the character itself, or all of its bytes, as in \xc3\xa9 for é")
    })
}

/// The byte that an escape stands for, and the length of the escape without its backslash.
fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    let digit = |at: usize| rest.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    match rest.first()? {
        b'n' => Some((b'\n', 1)),
        b'r' => Some((b'\r', 1)),
        b't' => Some((b'\t', 1)),
        &quoted @ (b'\\' | b'\'' | b'"') => Some((quoted, 1)),
        b'x' => u8::try_from(digit(1)? * 16 + digit(2)?).ok().map(|byte| (byte, 3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_13_13_escapes_are_those_of_llama_cpp() {
        let read = |text| unescaped("-p", text).unwrap();
        assert_eq!(read(r"a\nb\tc\rd"), "a\nb\tc\rd");
        assert_eq!(read(r#"\\n \' \" \x41\xc3\xa9"#), "\\n ' \" Aé");
        assert_eq!(read(r"C:\dir \x4 \é \"), r"C:\dir \x4 \é \");
        let failure = unescaped("-p", r"\xff").unwrap_err().to_string();
        assert!(failure.contains("-p: ") && failure.contains("hint: "), "{failure}");
    }
}
