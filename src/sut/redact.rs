//! Keeps the values of other people's environment out of everything that is shown or written.
//!
//! All values count but the tuned ones. What is left readable: numbers, booleans, and short plain words in variables
//! whose name does not sound like a secret ("info", "database"): hiding those would make every log unreadable.

use crate::spec::Secret;

/// What stands in place of a value.
const MASK: &str = "***";
/// Lines of a log that are shown.
pub const LOG_LINES: u32 = 50;
/// Longest log tail, bytes.
const LOG_BYTES: usize = 8 << 10;

/// Replaces known values in texts.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a value inside another does not leave its rest behind.
    values: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} values)", self.values.len())
    }
}

impl Redactor {
    /// Hides the values of `env`, except those that `is_public` names.
    #[must_use]
    pub fn new<'a>(
        env: impl IntoIterator<Item = (&'a str, &'a str)>,
        is_public: impl Fn(&str) -> bool,
    ) -> Self {
        let mut values: Vec<String> = env
            .into_iter()
            .filter(|(name, _)| !is_public(name))
            .flat_map(|(name, value)| forms(name, value))
            .collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// Hides the values of `added` and of our own environment, which a child process inherits: whatever it prints of them
    /// is not shown. What every shell has (paths, names, language) says nothing and stays readable.
    #[must_use]
    pub fn inherited<'a>(added: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all: Vec<(String, String)> = std::env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .filter(|(name, _)| !is_of_every_shell(name))
            .collect();
        all.extend(added.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
        Self::new(all.iter().map(|(k, v)| (k.as_str(), v.as_str())), |_| false)
    }

    /// Hides what others found to be secret. What is shorter than four characters would make every text unreadable.
    #[must_use]
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut values: Vec<String> = secrets
            .into_iter()
            .map(|s| s.expose().to_owned())
            .filter(|v| v.len() >= 4)
            .collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// The values, for others who print.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        self.values.iter().map(|v| Secret::new(v.as_str())).collect()
    }

    /// `text` with every known value masked.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for value in &self.values {
            if out.contains(value.as_str()) {
                out = out.replace(value.as_str(), MASK);
            }
        }
        out
    }

    /// The end of a log: masked, without control characters, bounded in lines and bytes.
    #[must_use]
    pub fn log(&self, text: &str) -> String {
        // Masked before it is cut: a value across the cut would lose only its beginning.
        let masked = self.text(text);
        let lines: Vec<&str> = masked.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES as usize);
        let clean: Vec<String> = lines
            .get(from..)
            .unwrap_or_default()
            .iter()
            .map(|l| printable(l, 1_000))
            .collect();
        // Once more: taking control characters out can join the parts of a value.
        let all = self.text(&clean.join("\n"));
        let mut cut = all.len().saturating_sub(LOG_BYTES);
        while !all.is_char_boundary(cut) {
            cut += 1;
        }
        all.get(cut..).unwrap_or_default().trim().to_owned()
    }
}

/// `text` without terminal escapes and control characters, at most `most` characters.
#[must_use]
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut count = 0;
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            chars.next();
            while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            chars.next();
            continue;
        }
        let shown = if c == '\n' || c == '\t' { ' ' } else { c };
        if !shown.is_control() {
            out.push(shown);
            count += 1;
        }
        if count >= most {
            out.push('…');
            break;
        }
    }
    out
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    [
        "PASS", "PWD", "SECRET", "TOKEN", "KEY", "CRED", "AUTH", "DSN", "URL", "URI", "SALT", "PRIVATE",
        "CERT",
    ]
    .iter()
    .any(|w| name.contains(w))
}

/// The texts under which a value may show up: itself, its lines, the password of a URL, as typed and decoded.
fn forms(name: &str, value: &str) -> Vec<String> {
    let secret = sounds_secret(name);
    let mut out = Vec::new();
    if is_hidden(secret, value) {
        out.push(value.to_owned());
        out.extend(
            value
                .lines()
                .filter(|l| l.len() >= 8 && l.len() < value.len())
                .map(str::to_owned),
        );
        let json = serde_json::to_string(value).unwrap_or_default();
        let inner = json.trim_matches('"');
        if inner != value && !inner.is_empty() {
            out.push(inner.to_owned());
        }
    }
    if let Some(password) = url_password(value) {
        let decoded = percent_decode(password);
        for p in [password.to_owned(), decoded] {
            if p.chars().count() >= 3 {
                out.push(p);
            }
        }
    }
    out
}

fn is_hidden(secret: bool, value: &str) -> bool {
    let count = value.chars().count();
    if secret {
        return count >= 3 && !matches!(value, "true" | "false" | "none");
    }
    let is_number = value.parse::<f64>().is_ok() && count <= 9;
    let is_word = count <= 8 && value.chars().all(|c| c.is_ascii_lowercase());
    count >= 4 && !is_number && !is_word
}

fn url_password(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user_info, _) = authority.rsplit_once('@')?;
    user_info.split_once(':').map(|(_, p)| p)
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(b) = bytes.get(i) {
        let code = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (b, code) {
            (b'%', Some(c)) => {
                out.push(c);
                i += 3;
            }
            _ => {
                out.push(*b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Variables whose values are no secret anywhere and stand in every second message.
fn is_of_every_shell(name: &str) -> bool {
    const NAMES: [&str; 17] = [
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "LANG", "LANGUAGE", "TERM", "TZ",
        "TMPDIR", "HOSTNAME", "SHLVL", "NO_COLOR", "CI", "_",
    ];
    NAMES.contains(&name)
        || ["LC_", "RUST", "CARGO", "AUTOTUNE_", "XDG_"]
            .iter()
            .any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        let env = [
            ("DATABASE_URL", "postgresql://shop:p%40ss@db:5432/shop"),
            ("API_TOKEN", "abc"),
            ("CANARY", "canary-1b2c"),
            ("PEM", "-----BEGIN\nMIIabcdefgh\nxyz"),
            ("POOL_SIZE", "tuned-value"),
            ("LOG_LEVEL", "info"),
            ("WORKERS", "4"),
        ];
        Redactor::new(env, |name| name == "POOL_SIZE")
    }

    #[test]
    fn values_are_masked_in_every_form_and_tuned_ones_are_not() {
        let r = redactor();
        assert_eq!(
            r.text("connect postgresql://shop:p%40ss@db:5432/shop"),
            "connect ***"
        );
        assert_eq!(r.text("password p@ss or p%40ss; abc"), "password *** or ***; ***");
        assert_eq!(r.text("canary-1b2c MIIabcdefgh"), "*** ***");
        assert_eq!(r.text("tuned-value info 4"), "tuned-value info 4");
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?} {:?}", redactor(), redactor().secrets()).contains("canary"));
    }

    #[test]
    fn logs_are_bounded_and_clean() {
        let long = (0..500)
            .map(|i| format!("line {i} \u{1b}[31mred\u{1b}[0m\r canary-1b2c"))
            .collect::<Vec<_>>()
            .join("\n");
        let tail = redactor().log(&long);
        assert_eq!(tail.lines().count(), 50);
        assert!(tail.ends_with("line 499 red ***"), "{tail}");
        assert!(!tail.contains('\u{1b}'));
        assert!(redactor().log(&"x".repeat(1 << 20)).len() < 5_000);
    }

    proptest::proptest! {
        #[test]
        fn a_secret_never_survives(prefix in ".{0,40}", suffix in ".{0,40}") {
            let shown = redactor().log(&format!("{prefix}canary-1b2c{suffix}"));
            proptest::prop_assert!(!shown.contains("canary-1b2c"));
        }
    }

    /// A name on the list by mistake would show a secret; one too few would mask half of every message.
    #[test]
    fn what_every_shell_has_stays_readable() {
        assert!(
            ["PATH", "LC_ALL", "RUST_LOG", "AUTOTUNE_SPACE"]
                .iter()
                .all(|n| is_of_every_shell(n))
        );
        assert!(
            !["DATABASE_URL", "PGPASSWORD", "API_TOKEN"]
                .iter()
                .any(|n| is_of_every_shell(n))
        );
        let added = Redactor::inherited([("PASSWORD", "canary-in-a-child")]);
        assert!(!added.text("db canary-in-a-child boom").contains("canary"));
    }
}
