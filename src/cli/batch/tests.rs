use clap::{Args as _, FromArgMatches as _};

use super::*;

fn rewritten(output: &Path, flags: &[&str]) -> Option<PathBuf> {
    let command = BatchArgs::augment_args(clap::Command::new("batch"));
    let args = BatchArgs::from_arg_matches(
        &command.get_matches_from([&["batch", "-i", "prompts.txt", "-o", "given.jsonl"], flags].concat()),
    )
    .unwrap();
    let share = args.shard.as_deref().map_or(Ok(Share::One(Shard::ALL)), |share| Share::parse(share, |_| None));
    Work { args: &args, share: share.unwrap(), output: output.to_owned() }.rewritten()
}

#[test]
fn a_folder_is_written_into_only_where_files_are_written_anew() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("results.jsonl");
    let folder = Some(place.path().to_owned());
    for flag in ["--ordered", "--text"] {
        assert_eq!(rewritten(&file, &[flag]), folder, "it is yet to be made");
        fs::write(&file, "").unwrap();
        assert_eq!(rewritten(&file, &[flag]), folder);
        fs::remove_file(&file).unwrap();
        assert_eq!(rewritten(Path::new("results.jsonl"), &[flag]), Some(PathBuf::from(".")));
        assert_eq!(rewritten(Path::new("-"), &[flag]), None);
        #[cfg(unix)]
        assert_eq!(rewritten(Path::new("/dev/null"), &[flag]), None);
    }
    assert_eq!(rewritten(&file, &[]), None);
    assert_eq!(rewritten(&file, &["--shard", "claim"]), folder, "further shards have further files");
}
