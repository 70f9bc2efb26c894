//! What several tests need: the binary under test, the demo stack under a project of its own, searches for secrets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub const AUTOTUNE: &str = env!("CARGO_BIN_EXE_autotune");

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whether tests of the real stack run here; says why not. `scripts/test` sets the variable when it has brought
/// the engine and the images up: then nothing is skipped.
pub fn stack_wanted() -> bool {
    let wanted = std::env::var_os("AUTOTUNE_TEST_STACK").is_some();
    if !wanted {
        println!("skipped: needs a Docker engine and the demo images; `make test` brings them up");
    }
    wanted
}

/// Runs a program to its end and returns what it printed; panics with it when it failed.
pub fn run(command: &mut Command) -> String {
    let out = output(command);
    assert!(
        out.status.success(),
        "{command:?} ended with {}:\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Runs a program to its end, however it ends.
pub fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// `docker ...`.
pub fn docker(args: &[&str]) -> String {
    run(Command::new("docker").args(args))
}

/// The demo stack under its own project, ports and password; taken down when dropped.
pub struct Stack {
    project: String,
    environment: Vec<(String, String)>,
    /// Port of the API.
    pub port: u16,
}

impl Stack {
    /// Brings the stack up with `environment` added to the compose file's variables.
    pub fn up(project: &str, port: u16, environment: &[(&str, &str)]) -> Self {
        let mut all: Vec<(String, String)> = vec![
            ("API_PORT".into(), port.to_string()),
            ("POSTGRES_PORT".into(), (port + 1).to_string()),
            ("REDIS_PORT".into(), (port + 2).to_string()),
        ];
        all.extend(
            environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        );
        let stack = Self {
            project: project.to_owned(),
            environment: all,
            port,
        };
        // A killed test may have left one.
        stack.compose(&["down", "-v", "--remove-orphans"]);
        stack.compose(&["up", "-d", "--wait", "--no-build"]);
        stack
    }

    /// `docker compose -p PROJECT ...` with the stack's environment.
    pub fn compose(&self, args: &[&str]) -> String {
        run(Command::new("docker")
            .current_dir(root())
            .args(["compose", "-p", &self.project])
            .args(args)
            .envs(self.environment.iter().map(|(k, v)| (k, v))))
    }

    /// The API's container: id, name, running.
    pub fn api(&self) -> (String, String, String) {
        let name = format!("{}-api-1", self.project);
        let line = docker(&["inspect", "-f", "{{.Id}} {{.Name}} {{.State.Running}}", &name]);
        let mut words = line.split_whitespace().map(str::to_owned);
        (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap(),
        )
    }

    /// Names of all containers that carry one of our labels.
    pub fn leftovers(&self) -> String {
        docker(&[
            "ps",
            "-a",
            "--filter",
            "label=autotune.run",
            "--format",
            "{{.Names}}",
        ])
    }

    /// The project's name.
    pub fn project(&self) -> &str {
        &self.project
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = output(Command::new("docker").args(["ps", "-a"]));
            println!("{}", String::from_utf8_lossy(&log.stdout));
        }
        self.compose(&["down", "-v", "--remove-orphans", "-t", "2"]);
    }
}

/// Every file below `dir` that contains `needle`.
pub fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for path in entries.map(|e| e.unwrap().path()) {
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if fs::read(&path)
            .unwrap_or_default()
            .windows(needle.len())
            .any(|w| w == needle.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

/// Rows of a CSV as maps from column to cell.
pub fn csv_rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_path(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .deserialize()
        .map(Result::unwrap)
        .collect()
}
