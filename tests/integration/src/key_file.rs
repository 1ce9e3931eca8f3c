//! A key file, which private keys are sealed with.

use crate::{Database, new_folder, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A file that the server can read; deleted at the end.
pub struct KeyFile(PathBuf);

impl KeyFile {
    pub fn new(bytes: &[u8]) -> Self {
        let file = Self(new_folder());
        file.write(bytes);
        file
    }

    pub fn write(&self, bytes: &[u8]) {
        fs::write(&self.0, bytes).expect("the file is written");
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o644)).expect("it is made readable");
    }

    pub fn remove(&self) {
        fs::remove_file(&self.0).expect("the file is there");
    }

    /// The setting that has a server use it, as `name=value`.
    pub fn setting(&self) -> String {
        format!("anon_auth.key_file={}", self.0.display())
    }

    /// Has new connections to `db` use it.
    pub fn put_to_use(&self, db: &Database) {
        let path = self.0.display();
        run(&mut db.connect(), &format!("alter database {} set anon_auth.key_file = '{path}'", db.name));
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
