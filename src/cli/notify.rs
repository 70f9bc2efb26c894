//! `--notify COMMAND`: a command of the user's that is run once at the end of a run, however it ended.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long the command may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How a run ended, in the terms of the command's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// The exit code: AUTOTUNE_CODE.
    pub(super) code: u8,
    /// win, no_gain, worse, undecided, not_confirmed, or error: AUTOTUNE_VERDICT.
    pub(super) verdict: String,
    /// One sentence: AUTOTUNE_HEADLINE.
    pub(super) headline: String,
    /// The study's folder: AUTOTUNE_FOLDER.
    pub(super) folder: String,
    /// Several lines: the command's standard input.
    pub(super) summary: String,
}

/// Runs `command` in a shell; its output goes to stderr, since stdout is the result's. A command that fails changes
/// nothing of the run: the error is a sentence to warn with.
pub(super) async fn notify(command: &str, end: &End) -> Result<(), String> {
    let failed = |why: String| format!("--notify: {why}; the results are not affected");
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .env("AUTOTUNE_CODE", end.code.to_string())
        .env("AUTOTUNE_VERDICT", &end.verdict)
        .env("AUTOTUNE_HEADLINE", &end.headline)
        .env("AUTOTUNE_FOLDER", &end.folder)
        .env_remove("AUTOTUNE_NOTIFY")
        .spawn()
        .map_err(|e| failed(format!("the command could not be started: {e}")))?;
    let input = child.stdin.take();
    let work = async {
        if let Some(mut input) = input {
            // A command that does not read is as good as one that does.
            drop(input.write_all(end.summary.as_bytes()).await);
        }
        child.wait().await
    };
    match tokio::time::timeout(LONGEST, work).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("the command failed ({status})"))),
        Ok(Err(e)) => Err(failed(format!("the command could not be waited for: {e}"))),
        Err(_) => Err(failed(format!(
            "the command took longer than {} s and was ended",
            LONGEST.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> End {
        End {
            code: 3,
            verdict: "no_gain".into(),
            headline: "No gain: keep today's; $(nothing) `is` run".into(),
            folder: "results/pool".into(),
            summary: "several\nlines\n".into(),
        }
    }

    /// Breaks when the command is not told how it ended, or text of the study is run by the shell.
    #[tokio::test]
    async fn the_command_is_told_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let command = format!(
            r#"printf '%s|%s|%s|%s|' "$AUTOTUNE_CODE" "$AUTOTUNE_VERDICT" "$AUTOTUNE_HEADLINE" "$AUTOTUNE_FOLDER" >{0}; cat >>{0}"#,
            path.display()
        );
        assert_eq!(notify(&command, &end()).await, Ok(()));
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            "3|no_gain|No gain: keep today's; $(nothing) `is` run|results/pool|several\nlines\n"
        );
    }

    #[tokio::test]
    async fn a_command_that_fails_is_a_sentence() {
        let e = notify("exit 4", &end()).await.unwrap_err();
        assert!(e.contains("exit status: 4") && e.contains("not affected"), "{e}");
    }
}
