//! The generator's own limits on a real machine: what runs out here is never called the service's failure.

use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::AUTOTUNE;

/// The measurement's JSON of `autotune load` under `limit`, a shell command.
async fn load_under(limit: &str, url: &str) -> serde_json::Value {
    let script = format!(
        "{limit}; exec {AUTOTUNE} load --url {url} --rate 150 --duration 2s --timeout 2s --connections 400 --json"
    );
    let out = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(&script)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{script}: {e}: {}", String::from_utf8_lossy(&out.stderr)))
}

fn assert_own_class(found: &serde_json::Value, class: &str) {
    assert!(found["errors"][class].as_u64().unwrap_or(0) > 0, "{found}");
    assert_eq!(found["verdict"], "generator_limited", "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_descriptors_and_no_ports_are_the_generators_own_classes() {
    // A service that takes half a second: 75 connections are open at once.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0_u8; 1024];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let url = format!("http://127.0.0.1:{port}/");
    assert_own_class(&load_under("ulimit -n 48", &url).await, "no_file_descriptors");

    // Ports are the whole machine's: a network of its own, which needs root.
    let may = Command::new("unshare").args(["--net", "true"]).status();
    if !may.is_ok_and(|s| s.success()) {
        println!("skipped: no ports: may not unshare the network");
        return;
    }
    let inside = format!(
        "ip link set lo up && echo 30000 30020 >/proc/sys/net/ipv4/ip_local_port_range && \
         export PORT=8000 HOLD_MS=500 POOL_SIZE=500; {AUTOTUNE} demo-api >/dev/null 2>&1 & server=$!; \
         for i in $(seq 100); do {AUTOTUNE} load --url http://127.0.0.1:8000/ready --rate 5 --duration 1s --json >/dev/null 2>&1 && break; \
         sleep 0.1; done; \
         {AUTOTUNE} load --url http://127.0.0.1:8000/items/1 --rate 150 --duration 2s --timeout 2s --connections 400 --json; \
         kill $server"
    );
    let out = tokio::process::Command::new("unshare")
        .args(["--net", "sh", "-c", &inside])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let found = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    assert_own_class(&found, "no_ports");
}
