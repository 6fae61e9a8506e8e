//! The program of the containers: this test's own binary, static, and the only file of their image. It holds a lock that all nodes have in
//! common for as long as it runs, and says over HTTP how it is. Where it
//! is told to, it reads from a file system that does not answer.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// `/program ID [FILE...]`: the files of /state that are there from the beginning.
pub fn main(arguments: &[String]) {
    // Blocked, it reaches a first process all the same, and nothing else would.
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGTERM);
    asked.thread_block().expect("sigprocmask");
    let lock = File::create(format!("/shared/{}.lock", arguments[1])).expect("the lock");
    if lock.try_lock().is_err() {
        let marks = OpenOptions::new().create(true).append(true).open("/shared/twice");
        writeln!(marks.expect("the marks"), "{}", arguments[1]).expect("a mark");
    }
    // The kernel's to release, when the last thread has ended.
    std::mem::forget(lock);
    for file in &arguments[2..] {
        File::create(Path::new("/state").join(file)).expect("a file of the state");
    }
    let listener = TcpListener::bind("127.0.0.1:80").expect("port 80");
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    std::thread::spawn(|| {
        while !Path::new("/state/stuck").exists() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = File::open("/shared/unkillable/file");
    });
    asked.wait().expect("sigwait");
}

/// 200 for a file that is there.
fn answer(mut stream: TcpStream) {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let status = if Path::new("/state").join(path).is_file() { "200 OK" } else { "503 Service Unavailable" };
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}
