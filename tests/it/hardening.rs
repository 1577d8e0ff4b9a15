//! Exposed to a network: headers, pages of other origins, TLS, and requests that two servers could
//! read differently.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::binary::{Binary, TemporaryDirectory, command};
use crate::support::browser::Browser;
use crate::support::{Answer, PATIENCE, TestApp, TestDatabase, with_app, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_what_not_to_do() {
    with_app(async |app| {
        let made = app.reserve(1).await;
        let data = ["/reservations", "/health", "/nope", "/openapi.json"];
        let mut answers = vec![made];
        for path in data {
            answers.push(app.get(path).await);
        }
        for answer in answers {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
            for tells_too_much in ["server", "x-powered-by", "strict-transport-security"] {
                assert_eq!(answer.header(tells_too_much), None, "{answer:?}");
            }
            let cors =
                answer.headers.keys().any(|name| name.as_str().starts_with("access-control"));
            assert!(!cors, "{answer:?}");
        }
        for page in ["/", "/docs/index.html", "/problems/internal"] {
            let page = app.get(page).await;
            assert_eq!(page.status, 200);
            let policy = page.header("content-security-policy").expect("a policy");
            assert!(policy.contains("frame-ancestors 'none'"), "{page:?}");
            assert!(!policy.contains("script-src 'unsafe"), "{page:?}");
            assert_eq!(page.header("x-frame-options"), Some("DENY"));
            assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
            assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        }
    })
    .await;
}

/// The pages must work under their own content security policy.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_the_documentation_work() {
    with_app(async |app| {
        let browser = Browser::open(&format!("{}/docs/", app.base), 1200, 1000).await;
        browser.until("document.querySelectorAll('.opblock').length > 25").await;
        browser.go(&format!("{}/problems/insufficient-seats", app.base)).await;
        browser.until_says("body", "Not enough seats left").await;
        let width = "getComputedStyle(document.body).maxWidth";
        assert_eq!(browser.run(&format!("return {width}")).await, "640px", "its style is there");
        browser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_may_call_if_they_are_named() {
    const SHOP: &str = "https://shop.example";
    let settings = [("CORS_ORIGINS", "https://shop.example, http://localhost:3000")];
    with_settings(&settings, async |app| {
        let ask = async |origin: &str| {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,content-type,idempotency-key"),
            ];
            app.send(Method::OPTIONS, "/reservations", &headers, None).await
        };
        for origin in [SHOP, "http://localhost:3000"] {
            let allowed = ask(origin).await;
            assert_eq!(allowed.status, 200, "{allowed:?}");
            assert_eq!(allowed.header("access-control-allow-origin"), Some(origin));
            assert_eq!(allowed.header("access-control-allow-credentials"), None);
        }
        for origin in ["https://evil.example", "https://shop.example.evil.example", "null"] {
            let refused = ask(origin).await;
            assert_eq!(refused.header("access-control-allow-origin"), None, "{refused:?}");
            let problem = refused.problem(400, "validation_failed");
            assert_eq!(problem["errors"][0]["field"], "Origin", "{problem}");
        }
        // A page of another origin can read refusals, too.
        let sold_out = json!({"partnerId": "abc-corp", "seats": 99}).to_string();
        let headers = [("origin", SHOP)];
        let answer = app.send(Method::POST, "/reservations", &headers, Some(sold_out)).await;
        answer.problem(400, "validation_failed");
        assert_eq!(answer.header("access-control-allow-origin"), Some(SHOP));
        let exposed = answer.header("access-control-expose-headers").expect("some").to_lowercase();
        for name in ["etag", "location", "retry-after", "ratelimit"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    })
    .await;
}

/// A self-signed certificate for localhost.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".into()]).expect("a certificate");
        Self { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }
}

/// Files that belong to one test.
struct Files {
    folder: TemporaryDirectory,
}

impl Files {
    fn new() -> Self {
        Self { folder: TemporaryDirectory::new() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        path
    }
}

/// Requests `/health` over HTTPS, trusting this certificate. Returns the headers and the version of
/// HTTP, or `None` if the client was not served.
async fn served(base: &str, trusted: &PathBuf) -> Option<(String, String)> {
    let port = base.rsplit(':').next().expect("a port");
    let url = format!("https://localhost:{port}/health");
    let output = Command::new("curl")
        .args([
            "--silent",
            "--dump-header",
            "-",
            "--noproxy",
            "*",
            "--write-out",
            "%{http_version}",
        ])
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(trusted)
        .args(["--output", "/dev/null", &url])
        .output()
        .await
        .expect("curl is installed");
    let said = String::from_utf8(output.stdout).expect("text");
    let (headers, version) = said.rsplit_once("\r\n").unwrap_or(("", &said));
    output.status.success().then(|| (headers.to_lowercase(), version.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_its_certificate_renewed() {
    let database = TestDatabase::create_empty().await;
    let files = Files::new();
    let (first, second) = (Pair::new(), Pair::new());
    let certificate = files.write("cert.pem", &first.certificate);
    let key = files.write("key.pem", &first.key);
    let [trusted_first, trusted_second] = [("1.pem", &first), ("2.pem", &second)]
        .map(|(name, pair)| files.write(name, &pair.certificate));
    let environment = [
        ("DATABASE_URL", database.url.as_str()),
        ("TLS_CERT", certificate.to_str().expect("text")),
        ("TLS_KEY", key.to_str().expect("text")),
    ];
    let service = Binary::serve(&environment).await;
    assert!(service.base.starts_with("https://"), "{}", service.base);
    let (headers, version) = served(&service.base, &trusted_first).await.expect("it is trusted");
    assert_eq!(version, "1.1");
    assert!(headers.contains("strict-transport-security: max-age="), "{headers}");
    assert_eq!(served(&service.base, &trusted_second).await, None);
    // Plain HTTP is not understood.
    let plain = service.base.replace("https://", "http://");
    assert!(reqwest::get(format!("{plain}/health")).await.is_err());

    // A certificate and a key that do not belong together change nothing.
    files.write("cert.pem", &second.certificate);
    service.signal(Signal::SIGHUP);
    let said = async {
        while !service.log().iter().any(|line| line.contains("stays in use")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, said).await.expect("it is said");
    served(&service.base, &trusted_first).await.expect("the old one is there");
    files.write("key.pem", &second.key);
    service.signal(Signal::SIGHUP);
    let renewed = async { while served(&service.base, &trusted_second).await.is_none() {} };
    timeout(PATIENCE, renewed).await.expect("the new one is there");
    assert_eq!(service.stop().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_for_tls_stops_the_start() {
    let database = TestDatabase::create_empty().await;
    let files = Files::new();
    let (pair, other) = (Pair::new(), Pair::new());
    let certificate = files.write("cert.pem", &pair.certificate);
    let key = files.write("key.pem", &pair.key);
    let others = files.write("other.pem", &other.key);
    let empty = files.write("empty.pem", "");
    let missing = files.folder.path().join("missing.pem");
    let cases = [
        (Some(&certificate), None, "TLS_KEY"),
        (None, Some(&key), "TLS_CERT"),
        (Some(&certificate), Some(&others), "do not match"),
        (Some(&empty), Some(&key), "contains no certificate"),
        (Some(&missing), Some(&key), "missing.pem"),
        (Some(&certificate), Some(&empty), "not a private key"),
    ];
    for (certificate, key, words) in cases {
        let mut environment = vec![("DATABASE_URL", database.url.as_str())];
        environment.extend(certificate.map(|path| ("TLS_CERT", path.to_str().expect("text"))));
        environment.extend(key.map(|path| ("TLS_KEY", path.to_str().expect("text"))));
        let output = command(&[], &environment).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// Sends bytes, and returns all that comes back until the server closes.
async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    let address = app.base.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    // A server that has sent its answer may reset a connection with unread bytes.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client that is refused before its body is read can go on using the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_connection() {
    with_settings(&[("ACCESS_CONTROL", "keys")], async |app| {
        let address = app.base.strip_prefix("http://").expect("a URL");
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        let request = "POST /reservations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                       content-length: 11\r\n\r\n{\"seats\":1}";
        let mut answers = String::new();
        for number in 1..=3 {
            stream.write_all(request.as_bytes()).await.expect("it reads");
            let mut chunk = [0; 4096];
            while answers.matches("\"code\":\"unauthenticated\"").count() < number {
                let read = timeout(PATIENCE, stream.read(&mut chunk)).await.expect("in time");
                let read = read.expect("it is open");
                assert!(read > 0, "it was closed: {answers}");
                answers += std::str::from_utf8(&chunk[..read]).expect("text");
            }
        }
        assert!(!answers.to_lowercase().contains("connection: close"), "{answers}");
    })
    .await;
}

/// Requests that a proxy in front of the service could read differently. Each is refused, the
/// connection closed, and what follows is not taken for a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_length() {
    const SMUGGLED: &str = "POST /reservations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                            content-length: 36\r\n\r\n{\"partnerId\":\"smuggled\",\"seats\":1}   ";
    let heads = [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        "content-length: 4\r\ncontent-length: 0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 4\r\n\r\n",
        "content-length: +0\r\n\r\n",
        "content-length: 0x0\r\n\r\n",
        "content-length: 0, 0\r\n\r\n",
        "content-length: -1\r\n\r\n",
        "content-length: 99999999999999999999\r\n\r\n",
        "content-length : 0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nxyz\r\n\r\n",
        "x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "x: a\0b\r\n\r\n",
        "x: a\rb\r\n\r\n",
    ];
    with_app(async |app| {
        for head in heads {
            let request = format!("POST /health HTTP/1.1\r\nhost: x\r\n{head}{SMUGGLED}");
            let answer = raw(app, request.as_bytes()).await;
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
            assert!(answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
        }
        let summary = app.get("/reservations").await.json();
        assert_eq!(summary["reservationCount"], 0, "{summary}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_turned_away() {
    with_app(async |app| {
        let long = format!("x: {}\r\n", "a".repeat(300_000));
        let many: String = (0..2_000).map(|number| format!("x-{number}: a\r\n")).collect();
        for head in [long, many] {
            let request = format!("GET /health HTTP/1.1\r\nhost: x\r\n{head}\r\n");
            let answer = raw(app, request.as_bytes()).await;
            let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
            assert!(refused, "{answer}");
        }
        let path = format!("/events/{}", "a".repeat(60_000));
        let answer: Answer = app.get(&path).await;
        assert!([404, 414].contains(&answer.status.as_u16()), "{}", answer.status);
        app.reserve(1).await.made();
    })
    .await;
}

/// The signal of a renewal hook, or of a terminal that is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_nothing() {
    let database = TestDatabase::create_empty().await;
    let service = Binary::serve(&[("DATABASE_URL", database.url.as_str())]).await;
    for _ in 0..3 {
        service.signal(Signal::SIGHUP);
        let answer = reqwest::get(format!("{}/health", service.base)).await.expect("it lives");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(service.stop().await.0, Some(0));
}
