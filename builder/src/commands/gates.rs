//! The user's own checks of a rebuilt node: programs of the project, and Jobs in the cluster.

use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use node::values::Hostname;

use crate::config::{Problems, Project};
use crate::kubernetes::Kube;
use crate::life::{Answer, Failed, Gates, Health};

/// How long one program may take: it is asked again, so it has no reason to wait.
const LIMIT: Duration = Duration::from_mins(1);
/// Between two looks whether it ended.
const POLL: Duration = Duration::from_millis(20);
/// How much of what a program says goes into a cause.
const LONGEST: usize = 400;

/// The gates of a project.
#[derive(Debug)]
pub struct Checks<'a> {
    programs: Vec<PathBuf>,
    /// Each Job's file and text.
    jobs: Vec<(String, String)>,
    kube: Option<&'a Kube>,
    kubeconfig: Option<PathBuf>,
    limit: Duration,
}

impl<'a> Checks<'a> {
    /// Those of the cluster's file.
    ///
    /// # Errors
    /// [`Problems`]: a file is not there, or no program.
    pub fn of(project: &Project, kube: Option<&'a Kube>, config: Option<PathBuf>) -> Result<Self> {
        let rollout = &project.cluster.rollout;
        let programs = rollout.gates.iter().map(|path| project.root.join(path));
        let programs: Vec<_> = programs.collect();
        for path in &programs {
            use std::os::unix::fs::PermissionsExt as _;
            let meta = fs_err::metadata(path).map_err(|e| wrong("gates", &e.to_string()))?;
            if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
                let rule = format!("{} is no program; run `chmod +x` on it", path.display());
                return Err(wrong("gates", &rule).into());
            }
        }
        let mut jobs = Vec::new();
        for path in &rollout.jobs {
            let text = fs_err::read_to_string(project.root.join(path));
            let text = text.map_err(|e| wrong("jobs", &e.to_string()))?;
            Kube::job_of(&text, "node", "0")
                .map_err(|e| wrong("jobs", &format!("{path}: {e:#}")))?;
            jobs.push((path.clone(), text));
        }
        Ok(Self { programs, jobs, kube, kubeconfig: config, limit: LIMIT })
    }

    fn ask_program(&self, program: &Path, node: &Hostname) -> Result<Health> {
        let mut command = Command::new(program);
        command.arg(node.as_str()).stdin(Stdio::null());
        // A file: a pipe that nobody reads meanwhile would stop who says much.
        let mut told = tempfile::tempfile().context("failed to make a file")?;
        command.stdout(Stdio::null()).stderr(told.try_clone()?).process_group(0);
        command.envs(self.kubeconfig.iter().map(|path| ("KUBECONFIG", path)));
        let mut child =
            command.spawn().with_context(|| format!("failed to run {}", program.display()))?;
        let end = Instant::now() + self.limit;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() > end => break None,
                None => std::thread::sleep(POLL),
            }
        };
        // With everything it started.
        let group = Pid::from_raw(child.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL); // it is gone already in the good case
        let status = match status {
            Some(status) => status,
            None => child.wait()?,
        };
        if status.success() {
            return Ok(Health::Good);
        }
        let mut said = Vec::new();
        told.rewind()?;
        told.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        Ok(Health::Bad(format!("gate {}: {status}: {}", program.display(), last_words(&said))))
    }

    fn ask_jobs(&self, node: &Hostname) -> Answer<Health> {
        for (path, text) in &self.jobs {
            let kube = self.kube.ok_or_else(|| {
                Failed::Never(format!("the gate {path} is a Job, and no --kubeconfig was given"))
            })?;
            if let Health::Bad(why) = kube.ask_job(path, text, node.as_str())? {
                return Ok(Health::Bad(why));
            }
        }
        Ok(Health::Good)
    }
}

impl Gates for Checks<'_> {
    fn ask(&self, node: &Hostname) -> Answer<Health> {
        for program in &self.programs {
            let asked = self.ask_program(program, node);
            match asked.map_err(|e| Failed::Never(format!("{e:#}")))? {
                Health::Good => {}
                bad @ Health::Bad(_) => return Ok(bad),
            }
        }
        self.ask_jobs(node)
    }
}

fn wrong(key: &str, rule: &str) -> Problems {
    let hint = format!("see rollout.{key} of cluster/cluster.toml");
    Problems::usage(rule.to_owned(), Some(hint))
}

/// The end of a text, on one line.
fn last_words(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let last = 0..=line.len().saturating_sub(LONGEST);
    let from = last.rev().find(|at| line.is_char_boundary(*at));
    line[from.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn checks(script: &str, limit: Duration) -> (tempfile::TempDir, Checks<'static>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let programs = vec![path];
        (dir, Checks { programs, jobs: vec![], kube: None, kubeconfig: None, limit })
    }

    fn asked(script: &str, limit: Duration) -> String {
        let (dir, checks) = checks(script, limit);
        match checks.ask(&"w1".parse().unwrap()).unwrap() {
            Health::Good => "good".to_owned(),
            Health::Bad(why) => why.replace(dir.path().to_str().unwrap(), ""),
        }
    }

    #[test]
    fn a_program_is_asked_with_the_nodes_name_and_says_why_not() {
        let minute = Duration::from_mins(1);
        assert_eq!(asked("[ $1 = w1 ]", minute), "good");
        let why = asked("echo no web on $1 >&2; echo here >&2; exit 7", minute);
        assert_eq!(why, "gate /gate: exit status: 7: no web on w1 here");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_started() {
        let start = Instant::now();
        let why = asked("sleep 600 & sleep 600", Duration::from_millis(200));
        assert!(why.starts_with("gate /gate: signal: 9"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn long_words_are_cut_to_their_end() {
        let text = last_words(&format!("{} end", "ä".repeat(LONGEST)));
        assert!(text.len() <= LONGEST && text.ends_with("ä end"), "{text}");
    }
}
