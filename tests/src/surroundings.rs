//! Builds in other surroundings: what must not matter to an image's bytes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::Run as _;

use crate::lab::Lab;

/// A user made for the tests.
const USER: &str = "e2e-builder";

/// Everything around a build that differs from machine to machine.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// `umask`.
    pub umask: &'static str,
    /// Time zone.
    pub zone: &'static str,
    /// Language.
    pub language: &'static str,
    /// Host name.
    pub host: &'static str,
}

/// Far from those most machines have.
pub const ODD: Surroundings = Surroundings {
    umask: "0077",
    zone: "Pacific/Kiritimati",
    language: "tr_TR.UTF-8",
    host: "other-host",
};

impl Surroundings {
    /// `builder image` of the worker in these surroundings, with `/` as the current folder.
    pub fn image(&self, lab: &Lab, user: Option<&User>) -> Command {
        let wanted = ["image", "--profile", "worker", "--offline", "--artifact"];
        let firstboot = lab.firstboot();
        let args = wanted.iter().copied().chain([firstboot.as_str()]);
        self.builder(lab, &args.collect::<Vec<_>>(), user)
    }

    /// `builder` with `args`, as `user` or as who we are. Another host name takes root or an own
    /// user namespace.
    pub fn builder(&self, lab: &Lab, args: &[&str], user: Option<&User>) -> Command {
        let script = "umask $0; hostname \"$1\"; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--uts", "sh", "-c", script, self.umask, self.host]);
        if let Some(user) = user {
            command.args(user.become_it());
        }
        command.arg(&lab.programs.builder).arg("--root").arg(&lab.project).args(args);
        lab.surround(&mut command);
        command.current_dir("/").env("TZ", self.zone).env("LANG", self.language);
        command.env("LC_ALL", self.language);
        if user.is_some() {
            command.env("HOME", lab.place());
        }
        command
    }
}

/// An ordinary user with subordinate ids; removed on drop.
#[derive(Debug)]
pub struct User {
    id: u32,
}

impl User {
    /// Makes the user; `None` where we may not.
    ///
    /// # Errors
    /// We are root, and still cannot.
    pub fn new() -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        if nix::unistd::User::from_name(USER)?.is_none() {
            let mut add = Command::new("useradd");
            add.args(["--no-create-home", "--shell", "/usr/sbin/nologin", USER]).run()?;
        }
        let user = nix::unistd::User::from_name(USER)?.context("the user was just made")?;
        let this = Self { id: user.uid.as_raw() };
        let ids = fs::read_to_string("/etc/subuid")?;
        ensure!(
            ids.lines().any(|line| line.starts_with(USER)),
            "useradd gave {USER} no subordinate ids; set SUB_UID_COUNT in /etc/login.defs"
        );
        Ok(Some(this))
    }

    fn become_it(&self) -> [String; 4] {
        let id = self.id;
        let (user, group) = (format!("--reuid={id}"), format!("--regid={id}"));
        ["setpriv".to_owned(), user, group, "--clear-groups".to_owned()]
    }

    /// Gives the user a copy of everything in `lab` that a build writes to or may not link.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn take_over(&self, lab: &mut Lab) -> Result<()> {
        let bin = lab.place().join("bin");
        fs::create_dir_all(&bin)?;
        for program in [&mut lab.programs.builder, &mut lab.programs.firstboot] {
            let copy = bin.join(program.file_name().context("a program has a name")?);
            fs::copy(&*program, &copy)?;
            *program = copy;
        }
        let root = lab.cache.root().to_owned();
        copy_downloads(&root)?;
        let mut own = Command::new("chown");
        own.arg("-R").arg(format!("{0}:{0}", self.id));
        own.arg(&root).arg(&lab.project).arg(&bin).arg(lab.scratch()).run()?;
        open_up(lab.place())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // A user that stays is used by the next run.
        let _ = Command::new("userdel").arg(USER).run();
    }
}

fn copy_downloads(cache: &Path) -> Result<()> {
    let at = cache.join("sha256");
    let shared: PathBuf = fs::read_link(&at)?;
    fs::remove_file(&at)?;
    Command::new("cp").arg("-a").arg(shared).arg(&at).run()
}

fn open_up(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
