//! What is secret lies in a file that nobody else can read. Its path may be told to anybody; what is in it is in no argument,
//! environment, log, event or error.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that are read of it.
const MOST: u64 = 4096;
/// A token has so many bytes at least: what is shorter can be guessed.
const LEAST: usize = 32;

/// The text of such a file, without the newline at its end.
///
/// # Errors
/// It is none of ours, others may read it, it is no regular file or no text.
pub fn read(path: &Path) -> Result<String> {
    let failed = |call: &str, error: std::io::Error| {
        Error::new(format!("read the secret in {}", path.display())).call(call, crate::host::errno(&error))
    };
    // A fifo is not waited for.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| failed("open", error))?;
    let meta = file.metadata().map_err(|error| failed("fstat", error))?;
    if !meta.is_file() {
        return Err(Error::new(format!("{} is no regular file", path.display())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::new(format!("{} can be read by others", path.display())).hint("chmod 600"));
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::new(format!("{} is another user's", path.display())));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|error| failed("read", error))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

/// A token that a client must tell (RFC 6750).
pub struct Bearer {
    path: PathBuf,
    token: String,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bearer({})", self.path.display())
    }
}

impl Bearer {
    /// The token in this file.
    ///
    /// # Errors
    /// Those of [`read`]; it has less than 32 bytes, or some that no header may have.
    pub fn open(path: PathBuf) -> Result<Self> {
        let token = read(&path)?;
        if token.len() < LEAST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(format!("{} holds no token", path.display()))
                .hint(format!("one line of {LEAST} printable bytes at least: head -c 32 /dev/urandom | base64")));
        }
        Ok(Self { path, token })
    }

    /// Reads it anew. What can't be read leaves it as it was.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn again(&mut self) -> Result<()> {
        *self = Self::open(self.path.clone())?;
        Ok(())
    }

    /// Whether the value of an `Authorization` is this token's. Where a wrong one differs makes no difference in time; its length
    /// may.
    pub fn is(&self, authorization: &str) -> bool {
        let Some((scheme, told)) = authorization.split_once(' ') else { return false };
        let (told, token) = (told.trim_start().as_bytes(), self.token.as_bytes());
        let differs =
            told.iter().zip(token).fold(0, |differs, (told, token)| std::hint::black_box(differs | (told ^ token)));
        scheme.eq_ignore_ascii_case("bearer") && told.len() == token.len() && differs == 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("orlop-secret-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let path = file("token", &format!("{TOKEN}\n"), 0o600);
        let mut bearer = Bearer::open(path.clone()).expect("a token");
        assert!(bearer.is(&format!("Bearer {TOKEN}")) && bearer.is(&format!("bearer  {TOKEN}")));
        let all = [&TOKEN[1..], &TOKEN[..31], "", &format!("{TOKEN}0"), &TOKEN.replace("f0", "g0")].map(str::to_owned);
        for wrong in all {
            assert!(!bearer.is(&format!("Bearer {wrong}")), "{wrong}");
        }
        assert!(!bearer.is(TOKEN) && !bearer.is(&format!("Basic {TOKEN}")));
        assert!(!format!("{bearer:?}").contains(TOKEN));
        std::fs::write(&path, "short").expect("write");
        assert!(bearer.again().is_err() && bearer.is(&format!("Bearer {TOKEN}")), "the old one counts");
        std::fs::remove_file(path).expect("remove");
    }

    #[test]
    fn a_file_that_is_no_secret_is_none() {
        for (name, text, mode, why) in [
            ("others", TOKEN, 0o640, "can be read by others"),
            ("short", &TOKEN[1..], 0o600, "holds no token"),
            ("space", &TOKEN.replace('0', " "), 0o600, "holds no token"),
        ] {
            let path = file(name, text, mode);
            let error = Bearer::open(path.clone()).expect_err(name);
            assert!(error.message.contains(why) && !format!("{error:#}").contains(&TOKEN[1..]), "{error:#}");
            std::fs::remove_file(path).expect("remove");
        }
        assert!(read(Path::new("/dev/null")).is_err() && read(Path::new("/nowhere")).is_err());
    }
}
