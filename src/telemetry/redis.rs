//! Redis' own counters through INFO, over one plain TCP connection: three commands of a protocol that is lines, so
//! no client crate. `rediss://` is not supported and said so.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::sampler::{Record, Source};
use super::{Figures, names};
use crate::spec::Secret;

/// INFO of two sections is some 2 KB.
const MAX_REPLY: u64 = 64 * 1024;
const CONNECT: Duration = Duration::from_millis(800);

pub(super) struct Redis {
    address: Address,
    /// None after an error: opened again at the next sample, which is the second it would have taken anyway.
    connection: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RedisSample {
    clients: u64,
    blocked: u64,
    max_clients: u64,
    rejected: u64,
    commands: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<Secret>,
}

impl Redis {
    pub(super) async fn open(url: Option<&Secret>) -> Result<Self, String> {
        let address = parse_url(url.map_or("", Secret::expose))?;
        let mut redis = Self {
            address,
            connection: None,
        };
        redis.sample().await?;
        Ok(redis)
    }

    async fn look(&mut self, connection: &mut BufReader<TcpStream>) -> Result<RedisSample, String> {
        let clients = ask(connection, &["INFO", "clients"]).await?;
        let stats = ask(connection, &["INFO", "stats"]).await?;
        Ok(RedisSample {
            clients: number(&clients, "connected_clients"),
            blocked: number(&clients, "blocked_clients"),
            max_clients: number(&clients, "maxclients"),
            rejected: number(&stats, "rejected_connections"),
            commands: number(&stats, "total_commands_processed"),
        })
    }

    async fn connect(&self) -> Result<BufReader<TcpStream>, String> {
        let to = (self.address.host.as_str(), self.address.port);
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to))
            .await
            .map_err(|_| format!("no connection within {} ms", CONNECT.as_millis()))?
            .map_err(|e| format!("cannot connect: {e}; is [telemetry] redis reachable from here?"))?;
        let mut connection = BufReader::new(stream);
        if let Some(password) = &self.address.password {
            let mut command = vec!["AUTH"];
            command.extend(self.address.user.as_deref());
            command.push(password.expose());
            ask(&mut connection, &command).await?;
        }
        Ok(connection)
    }
}

impl Source for Redis {
    type Sample = RedisSample;
    const NAME: &'static str = "redis";

    async fn sample(&mut self) -> Result<RedisSample, String> {
        // Taken out: dropped half-way, or on an error, the connection is in an unknown state and must not be used again.
        let mut connection = match self.connection.take() {
            Some(c) => c,
            None => self.connect().await?,
        };
        let sample = self.look(&mut connection).await?;
        self.connection = Some(connection);
        Ok(sample)
    }

    #[allow(clippy::cast_precision_loss)]
    fn figures(&self, record: &Record<'_, RedisSample>) -> Figures {
        let mut out = Figures::from([
            (names::REDIS_CLIENTS.to_owned(), record.peak(|s| s.clients as f64)),
            (
                names::REDIS_BLOCKED_MEAN.to_owned(),
                record.mean(|s| s.blocked as f64),
            ),
        ]);
        let limit = record.peak(|s| s.max_clients as f64);
        if limit > 0.0 {
            out.insert(names::REDIS_MAX_CLIENTS.to_owned(), limit);
        }
        if let Some(n) = record.growth(|s| s.rejected) {
            out.insert(names::REDIS_REJECTED.to_owned(), n);
        }
        if let Some(n) = record.rate(|s| s.commands) {
            out.insert(names::REDIS_COMMANDS_PER_S.to_owned(), n);
        }
        out
    }
}

/// redis://[user][:password]@host[:port][/db]
fn parse_url(url: &str) -> Result<Address, String> {
    let rest = url
        .strip_prefix("redis://")
        .ok_or("only redis://[user:password@]host[:port] is understood")?;
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(']') => {
            (host, port.parse().map_err(|_| format!("`{port}` is not a port"))?)
        }
        _ => (place, 6379),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("the url names no host".to_owned());
    }
    let (user, password) = match login.and_then(|l| l.split_once(':')) {
        Some((user, password)) => (
            Some(percent_decoded(user)).filter(|u| !u.is_empty()),
            Some(Secret::new(percent_decoded(password))),
        ),
        None => (None, None),
    };
    Ok(Address {
        host: host.to_owned(),
        port,
        user,
        password,
    })
}

fn percent_decoded(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        let hex = (b[i] == b'%')
            .then(|| text.get(i + 1..i + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(b[i]));
        i += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One command, one reply: a simple string, or a bulk string of bounded length.
async fn ask(connection: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String, String> {
    let mut command = format!("*{}\r\n", words.len());
    for w in words {
        command.push_str(&format!("${}\r\n{w}\r\n", w.len()));
    }
    let broken = |e: std::io::Error| format!("connection lost: {e}");
    connection
        .get_mut()
        .write_all(command.as_bytes())
        .await
        .map_err(broken)?;
    let mut line = String::new();
    (&mut *connection)
        .take(1_024)
        .read_line(&mut line)
        .await
        .map_err(broken)?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(text.to_owned()),
        // The text of an error may repeat what was sent; only its first word is kept.
        Some(("-", text)) => Err(format!(
            "redis answered {}",
            text.split(' ').next().unwrap_or("an error")
        )),
        Some(("$", length)) => {
            let n: u64 = length.parse().map_err(|_| "not the Redis protocol".to_owned())?;
            if n > MAX_REPLY {
                return Err(format!("a reply of {n} bytes is too long"));
            }
            let mut body = vec![0; usize::try_from(n + 2).unwrap_or(0)];
            connection.read_exact(&mut body).await.map_err(broken)?;
            Ok(String::from_utf8_lossy(&body).into_owned())
        }
        _ => Err("not the Redis protocol".to_owned()),
    }
}

/// The number of `key:number` in INFO's lines; 0 where there is none.
fn number(info: &str, key: &str) -> u64 {
    info.lines()
        .filter_map(|l| l.trim_end().split_once(':'))
        .find(|(k, _)| *k == key)
        .and_then(|(_, v)| v.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_foreign_ones_refused() {
        let a = parse_url("redis://:p%40ss@cache.local:6380/2").unwrap();
        assert_eq!((a.host.as_str(), a.port, a.user), ("cache.local", 6380, None));
        assert_eq!(a.password.unwrap().expose(), "p@ss");
        assert_eq!(parse_url("redis://localhost").unwrap().port, 6379);
        assert_eq!(parse_url("redis://[::1]:7000").unwrap().host, "::1");
        for bad in ["rediss://x", "x", "redis://", "redis://h:port"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_reply_that_is_too_long_or_foreign_is_refused_without_reading_it() {
        for reply in [
            "$99999999\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "-NOAUTH hunter2\r\n",
            "",
        ] {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = Secret::new(format!("redis://{}", server.local_addr().unwrap()));
            let serve = tokio::spawn(async move {
                let (mut s, _) = server.accept().await.unwrap();
                let mut asked = [0; 64];
                let _ = s.read(&mut asked).await;
                let _ = s.write_all(reply.as_bytes()).await;
            });
            let error = Redis::open(Some(&url)).await.err().unwrap();
            assert!(!error.contains("hunter2"), "{error}");
            serve.await.unwrap();
        }
    }

    #[test]
    fn info_lines_are_read_by_name() {
        let info = "# Clients\r\nconnected_clients:12\r\nmaxclients:1000\r\n";
        assert_eq!(number(info, "connected_clients"), 12);
        assert_eq!(number(info, "clients"), 0);
    }
}
