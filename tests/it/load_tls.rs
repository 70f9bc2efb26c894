//! Load over https: the certificate is checked against the host's trust store, and a service that is trusted is measured as any other.
//!
//! The certificates under `tests/it/tls` are for this test alone: a root whose key was thrown away, and a server's for localhost.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use autotune::load::{Generator, LoadError};
use autotune::measurement::OutcomeClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::load_basics::{drive, plan};
use crate::load_server;

/// Answers 200 to everything, over TLS, until its runtime ends; the port.
async fn tls_server() -> u16 {
    let chain = CertificateDer::pem_slice_iter(include_bytes!("tls/server.crt"))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(acceptor.clone(), stream));
        }
    });
    port
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0_u8; 4_096];
    // The requests of this test come whole.
    while stream.read(&mut buffer).await? > 0 {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await?;
        stream.flush().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let url = format!("https://localhost:{}", tls_server().await);
    let generator = Generator::prepare(&load_server::spec(), std::slice::from_ref(&url), 1).unwrap();
    let refused = generator.reach().await.unwrap_err();
    assert!(
        matches!(&refused, LoadError::Unreachable { why, .. } if why.contains("certificate")),
        "{refused}"
    );
    let m = drive(
        &load_server::spec(),
        &url,
        &plan(20.0, Duration::from_millis(500)),
    )
    .await;
    assert_eq!((m.scheduled, m.good, m.sent), (10, 0, 0));
    assert!(
        m.count(OutcomeClass::Malformed) + m.in_flight_end == 10,
        "{:?}",
        m.errors
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_service_is_measured() {
    let url = format!("https://localhost:{}/x", tls_server().await);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/ca.crt");
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_autotune"))
            .args([
                "load",
                "--url",
                &url,
                "--rate",
                "40",
                "--duration",
                "500ms",
                "--json",
            ])
            .env("SSL_CERT_FILE", root)
            .output()
    })
    .await
    .unwrap()
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["scheduled"], 20);
    assert_eq!(result["errors"], serde_json::json!({}));
    assert_eq!(result["in_flight_after_drain"], 0);
}
