//! Recognizes files that are not GGUF, such as a web page saved instead of a download, or another format, for error
//! messages.

use crate::error::excerpt;

/// Number of bytes examined.
const N_LOOKED_AT: usize = 1024;

const AGAIN: &str = "download the file itself: on Hugging Face, replace /blob/ in the address by /resolve/";
const LOGIN: &str =
    "the download saved an error message instead of the model: check the address, and log in if the model is gated";
const UNPACK: &str = "unpack it, and give the GGUF file in it; convert safetensors and PyTorch models with llama.cpp's \
     convert_hf_to_gguf.py";
const CONVERT: &str = "look for a GGUF version of the model, or convert it with llama.cpp's convert_hf_to_gguf.py";

/// Magic bytes of known formats, with a name and a hint.
const BEGINNINGS: [(&[u8], &str, &str); 18] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer instead of the file itself",
        "download the file itself: git lfs pull",
    ),
    (
        b"version http://git-media",
        "a Git LFS pointer instead of the file itself",
        "download the file itself: git lfs pull",
    ),
    (
        b"/annex/objects/",
        "a git-annex pointer instead of the file itself",
        "download the file itself: git annex get FILE",
    ),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a rar archive", UNPACK),
    (b"\x7fELF", "a program", "a llamafile contains its GGUF file as a zip archive does: unzip FILE"),
    (b"MZ", "a program", "a llamafile contains its GGUF file as a zip archive does: unzip FILE"),
    (b"\x89HDF", "an HDF5 file", CONVERT),
    (b"lmgg", "a GGML file from before August 2023", "look for a newer conversion of the model"),
    (b"fmgg", "a GGML file from before August 2023", "look for a newer conversion of the model"),
    (b"tjgg", "a GGML file from before August 2023", "look for a newer conversion of the model"),
    (b"algg", "a GGML adapter from before August 2024", "look for a newer conversion of the adapter"),
    (b"CHASKIDF", "a drafter file of chaski", "give drafter files with --base, and a model with -m"),
    (b"\0\0\0\0", "zeros", "the download is incomplete: download it again"),
];

/// The format of a file and a hint; `None` if it is unknown.
pub(super) fn what(bytes: &[u8]) -> Option<(String, &'static str)> {
    let start = &bytes[..bytes.len().min(N_LOOKED_AT)];
    let known = BEGINNINGS.iter().find(|(beginning, _, _)| start.starts_with(beginning));
    if let Some((_, name, hint)) = known {
        return Some(((*name).to_owned(), hint));
    }
    if start.starts_with(b"PK\x03\x04") {
        // torch.save writes such an entry.
        let is_torch = start.windows(8).any(|window| window == b"data.pkl");
        let found = if is_torch { "a PyTorch model" } else { "a zip archive" };
        return Some((found.to_owned(), if is_torch { CONVERT } else { UNPACK }));
    }
    // A pickle of protocol 2 to 5; then safetensors, which start with the length of a JSON object.
    if let [0x80, 2..=5, ..] = start {
        return Some(("a PyTorch model (pickle)".to_owned(), CONVERT));
    }
    if start.len() > 8 && start[8] == b'{' && start[5..8] == [0; 3] {
        return Some(("a safetensors file".to_owned(), CONVERT));
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive".to_owned(), UNPACK));
    }
    text(start)
}

/// Describes a text file: a web page, a server's error message, or anything else.
fn text(start: &[u8]) -> Option<(String, &'static str)> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let is_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    // The last character may be cut.
    let is_utf8 = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
    if start.len() < 4 || !is_utf8 || !start.iter().all(is_text) {
        return None;
    }
    let lower = start[..start.len().min(64)].to_ascii_lowercase();
    let begins = |beginning: &str| lower.starts_with(beginning.as_bytes());
    if ["<!doctype html", "<html", "<head", "<!--"].into_iter().any(begins) {
        return Some(("a web page".to_owned(), AGAIN));
    }
    let line: Vec<u8> = start.split(|&byte| byte == b'\n').next().unwrap_or(start).trim_ascii().to_vec();
    let kind = match start[0] {
        b'{' | b'[' => "JSON",
        b'<' => "XML",
        _ => "text",
    };
    Some((format!("{kind}: {:?}", excerpt(&line)), LOGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_13_14_usual_wrong_files_are_named() {
        let tar = [&[b'x'; 257][..], b"ustar\x0000"].concat();
        for (bytes, name, hint) in [
            (&b"<!DOCTYPE html>\n<html>"[..], "a web page", "/resolve/"),
            (b"\xef\xbb\xbf\r\n <HTML lang=en>", "a web page", "/resolve/"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                "a Git LFS pointer",
                "git lfs pull",
            ),
            (b"{\"error\":\"Repository not found\"}", "JSON: \"{\\\"error\\\"", "log in"),
            (b"<?xml version=\"1.0\"?><Error>", "XML: ", "log in"),
            (b"Entry not found", "text: \"Entry not found\"", "log in"),
            (b"Invalid username or password.\n", "text: ", "log in"),
            (b"PK\x03\x04\x14\0archive/data.pkl", "a PyTorch model", "convert"),
            (b"PK\x03\x04\x14\0model.gguf", "a zip archive", "unpack"),
            (b"\x80\x02}q\0", "a PyTorch model", "convert"),
            (b"\x40\x1f\0\0\0\0\0\0{\"__metadata__\"", "a safetensors file", "convert"),
            (b"\x1f\x8b\x08\0", "a gzip archive", "unpack"),
            (&tar, "a tar archive", "unpack"),
            (b"lmgg", "a GGML file", "newer"),
            (b"\0\0\0\0\0\0", "zeros", "again"),
            (b"MZqFpD='", "a program", "unzip"),
        ] {
            let (found, what_to_do) = what(bytes).unwrap_or_else(|| panic!("{name} is not known"));
            assert!(found.starts_with(name) && what_to_do.contains(hint), "{found}; {what_to_do}");
        }
        for unknown in [&b""[..], b"abc", b"\x01\x02\x03\x04", b"\xff\xfe\xfd\xfc", b"a\0b\0"] {
            assert_eq!(what(unknown), None);
        }
    }
}
