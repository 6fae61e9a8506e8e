//! A file system (fuse(4)) that takes requests and does not answer: who has asked for a file in it is in state D once it is killed. It
//! ends with this process at the latest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// From <linux/fuse.h>.
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const LOOKUP: u32 = 1;

/// The file system, mounted on a directory.
pub struct Unkillable {
    directory: PathBuf,
    device: Arc<File>,
    /// The requests that have no answer.
    waiting: Arc<Mutex<Vec<u64>>>,
}

impl Unkillable {
    /// Mounts it.
    pub fn on(directory: &Path) -> Self {
        fs::create_dir(directory).expect("a mount point");
        let device = Arc::new(File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse"));
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("test"), directory, Some("fuse"), MsFlags::empty(), Some(&*options)).expect("mount fuse");
        let waiting = Arc::new(Mutex::new(Vec::new()));
        let (requests, unanswered) = (device.clone(), waiting.clone());
        std::thread::spawn(move || serve(&requests, &unanswered));
        Self { directory: directory.to_owned(), device, waiting }
    }

    /// Whether somebody waits.
    pub fn holds(&self) -> bool {
        !self.waiting.lock().expect("the requests").is_empty()
    }

    /// Lets go who waits.
    pub fn release(&self) {
        for unique in self.waiting.lock().expect("the requests").drain(..) {
            answer(&self.device, unique, -libc::EIO, &[]);
        }
    }

    /// Takes it away.
    pub fn end(&self) {
        self.release();
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}

fn serve(mut device: &File, waiting: &Mutex<Vec<u64>>) {
    let mut buffer = vec![0; 1 << 20];
    while device.read(&mut buffer).is_ok() {
        let opcode = u32::from_ne_bytes(buffer[4..8].try_into().expect("4 bytes"));
        let unique = u64::from_ne_bytes(buffer[8..16].try_into().expect("8 bytes"));
        match opcode {
            // struct fuse_init_out: version 7.31
            INIT => answer(device, unique, 0, &words(16, &[(0, 7), (1, 31), (5, 4096)])),
            // struct fuse_attr_out: an empty directory, for a day
            GETATTR => answer(device, unique, 0, &words(26, &[(0, 86_400), (4, 1), (19, 0o40_755), (20, 2)])),
            LOOKUP => waiting.lock().expect("the requests").push(unique),
            _ => {}
        }
    }
}

/// So many words of 32 bits, of which these are not 0.
fn words(length: usize, set: &[(usize, u32)]) -> Vec<u8> {
    let word = |index| set.iter().find(|(at, _)| *at == index).map_or(0, |(_, value)| *value);
    (0..length).flat_map(|index| word(index).to_ne_bytes()).collect()
}

fn answer(mut device: &File, unique: u64, error: i32, body: &[u8]) {
    let length = 16 + body.len() as u32;
    let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
    // Who is gone hears nothing.
    let _ = device.write(&[&head, body].concat());
}
