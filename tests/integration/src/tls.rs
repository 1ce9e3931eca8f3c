//! A web server on loopback whose certificate nobody knows but the test.

use crate::{new_folder, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Serves one file over HTTPS, with a certificate of its own for `localhost`.
pub struct TlsWeb {
    process: Child,
    dir: PathBuf,
    pub port: u16,
}

impl TlsWeb {
    /// # Arguments
    /// * `file`, `content` – what is served
    pub fn serve(file: &str, content: &str) -> Self {
        let dir = new_folder();
        std::fs::create_dir(&dir).expect("a new folder");
        std::fs::write(dir.join(file), content).expect("the file is written");
        let made = openssl(&dir)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
            .status();
        assert!(made.expect("openssl runs").success());
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a free port").port();
        let process = openssl(&dir)
            .args(["s_server", "-accept", &port.to_string(), "-WWW", "-cert", "certificate.pem", "-key", "key.pem"])
            .stdin(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let web = Self { process, dir, port };
        wait_until("the web server", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        web
    }

    /// The file of its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }
}

fn openssl(dir: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Drop for TlsWeb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
