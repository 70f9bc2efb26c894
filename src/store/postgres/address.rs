//! The address of a shared study: a URL that is a secret, and what may be said of it.

use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::spec::Secret;
use crate::store::StoreError;

/// The schema of a study that is not named.
const SCHEMA: &str = "autotune";
/// Longest name of a study in a URL.
const MAX_NAME: usize = 40;
/// What a URL may say besides: the client library would print a parameter that it does not know, value and all.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A parsed URL. Its `Debug` and its words never show user or password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    pub(super) schema: String,
    /// "the study in Postgres at host:port/database", for people.
    pub(super) place: String,
    /// Texts that no message may hold.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place)
    }
}

impl Address {
    /// `postgres://user:password@host:port/database?study=NAME`; without a name, the schema is `autotune`.
    pub(super) fn parse(url: &Secret) -> Result<Self, StoreError> {
        let (url, name) = split_name(url.expose())?;
        let plain = match url.split_once("://") {
            Some(("postgres" | "postgresql", _)) => url.clone(),
            // As SQLAlchemy writes it.
            Some((scheme, rest)) if scheme.starts_with("postgresql+") => format!("postgresql://{rest}"),
            _ => return Err(not_a_url()),
        };
        // The error of a bad URL may repeat it, password and all.
        let options = PgConnectOptions::from_str(&plain).map_err(|_| not_a_url())?;
        let schema = match &name {
            None => SCHEMA.to_owned(),
            Some(n) => format!("{SCHEMA}_{n}"),
        };
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let named = name.map_or(String::new(), |n| format!(" (study {n})"));
        let place = match options.get_socket() {
            Some(socket) => format!("the study in Postgres at {}/{database}{named}", socket.display()),
            None => format!(
                "the study in Postgres at {}:{}/{database}{named}",
                options.get_host(),
                options.get_port()
            ),
        };
        let options = options
            .application_name("autotune-worker")
            .options([
                ("search_path", schema.as_str()),
                // A host that vanished is noticed within a minute: its locks are freed and its trial is asked again.
                ("tcp_keepalives_idle", "20"),
                ("tcp_keepalives_interval", "10"),
                ("tcp_keepalives_count", "4"),
                ("statement_timeout", "120s"),
            ])
            .disable_statement_logging();
        Ok(Self {
            options,
            schema,
            place,
            secrets: secrets(&plain),
        })
    }

    /// `text` of the database or a library, short, printable, without what must not be shown.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        text.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

fn not_a_url() -> StoreError {
    StoreError::Missing(
        "the address of the shared study is not a URL of Postgres: write postgres://USER:PASSWORD@HOST:PORT/DATABASE, best \
         in the environment variable AUTOTUNE_STUDY, where others on this machine don't see it"
            .to_owned(),
    )
}

/// The URL without our own `study=NAME`, and the name.
fn split_name(url: &str) -> Result<(String, Option<String>), StoreError> {
    let Some((base, query)) = url.trim().split_once('?') else {
        return Ok((url.trim().to_owned(), None));
    };
    let (ours, theirs): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|p| !p.is_empty())
        .partition(|p| p.starts_with("study="));
    let name = ours.last().map(|p| p.trim_start_matches("study=").to_owned());
    let legal = |n: &str| {
        !n.is_empty()
            && n.len() <= MAX_NAME
            && n.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if name.as_deref().is_some_and(|n| !legal(n)) {
        return Err(StoreError::Missing(format!(
            "?study=NAME in the address of the shared study takes small letters, digits and _, at most {MAX_NAME}"
        )));
    }
    let is_unknown = |p: &&str| {
        let key = p.split('=').next().unwrap_or_default();
        !PARAMETERS.contains(&key) && !key.starts_with("options[")
    };
    if theirs.iter().any(is_unknown) {
        return Err(StoreError::Missing(format!(
            "the address of the shared study has a parameter that is not known; known are study, {}",
            PARAMETERS.join(", ")
        )));
    }
    let rest = match theirs.as_slice() {
        [] => base.to_owned(),
        all => format!("{base}?{}", all.join("&")),
    };
    Ok((rest, name))
}

/// The password as it stands in the URL and as it is meant, and the whole URL.
fn secrets(url: &str) -> Vec<String> {
    let mut all = vec![url.to_owned()];
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user_info = authority.rsplit_once('@').map_or("", |(info, _)| info);
    if let Some((_, password)) = user_info.split_once(':').filter(|(_, p)| !p.is_empty()) {
        all.push(password.to_owned());
        all.push(percent_decoded(password));
    }
    if let Some(password) = url.split(['?', '&']).find_map(|p| p.strip_prefix("password=")) {
        all.push(password.to_owned());
        all.push(percent_decoded(password));
    }
    all.retain(|s| !s.is_empty());
    all
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let coded = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match coded {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, StoreError> {
        Address::parse(&Secret::new(url))
    }

    #[test]
    fn a_url_says_where_and_which_study_and_never_who() {
        let a = parse("postgres://me:s3cr%40t@db.example:5433/nights?sslmode=disable&study=pool_2").unwrap();
        assert_eq!(a.schema, "autotune_pool_2");
        assert_eq!(
            a.place,
            "the study in Postgres at db.example:5433/nights (study pool_2)"
        );
        assert!(
            a.options
                .get_options()
                .unwrap()
                .contains("search_path=autotune_pool_2")
        );
        for shown in [format!("{a:?}"), a.clean("no s3cr@t, s3cr%40t here")] {
            assert!(!shown.contains("s3cr") && !shown.contains("me:"), "{shown}");
        }
        assert_eq!(parse("postgresql+asyncpg://u:p@h/d").unwrap().schema, "autotune");
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for bad in [
            "results/pool",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?study=A-B",
            "postgres://u:hunter2@h/d?study=",
            "postgres://u@h/d?pasword=hunter2",
        ] {
            let StoreError::Missing(said) = parse(bad).unwrap_err() else {
                panic!("{bad}")
            };
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
