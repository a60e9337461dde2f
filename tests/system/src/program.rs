//! Programs as child processes.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// After this, what has not happened is a failure. Generous: a machine may be slow, and a test that passes does not wait for it.
const DEADLINE: Duration = Duration::from_secs(90);

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// What it was.
    pub command: String,
    /// Its exit status; -1 when a signal ended it.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl Done {
    /// Itself, if it has done what it should.
    pub fn ok(self) -> Self {
        assert!(self.status == 0, "it should have exited with 0: {self:#?}");
        self
    }

    /// Itself, if it has refused with this status and said this.
    pub fn refused(self, status: i32, why: &str) -> Self {
        assert!(self.status == status, "it should have exited with {status}: {self:#?}");
        assert!(self.stderr.contains(why), "it should have said {why:?}: {self:#?}");
        self
    }

    /// What it printed as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("it printed no JSON: {error}: {self:#?}"))
    }

    /// The first line that it printed.
    pub fn line(&self) -> &str {
        self.stdout.lines().next().unwrap_or_default()
    }
}

/// Runs a command to its end, with `input` on its standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Done {
    let name = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0);
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    let group = group_of(&child);
    // It may end without reading everything.
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (tell, ended) = channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    match ended.recv_timeout(DEADLINE) {
        Ok(output) => {
            let output = output.unwrap_or_else(|error| panic!("{name} cannot be waited for: {error}"));
            Done {
                command: name,
                status: code(output.status),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }
        }
        Err(_) => {
            let _ = killpg(group, Signal::SIGKILL);
            panic!("{name} did not end within {DEADLINE:?}");
        }
    }
}

/// A child process in a process group of its own, which ends with this.
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    said: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it. Its output is read all the time, so that it never waits for us.
    pub fn start(name: &str, command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let (tell, lines) = channel();
        let stdout = child.stdout.take().expect("piped");
        note_lines(stdout, Arc::clone(&said), move |line| drop(tell.send(line)));
        let stderr = child.stderr.take().expect("piped");
        note_lines(stderr, Arc::clone(&said), |_| ());
        Self {
            name: name.to_owned(),
            child,
            lines,
            said,
        }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints for which `wanted` is true; lines before it are passed over.
    pub fn line(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => (),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: not within {DEADLINE:?}: {what}\n{}", self.name, self.said())
                }
                Err(RecvTimeoutError::Disconnected) => panic!("{} ended before {what}\n{}", self.name, self.said()),
            }
        }
    }

    /// The next line of JSON for which `wanted` is true.
    pub fn event(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut found = Value::Null;
        self.line(what, |line| {
            found = serde_json::from_str(line).unwrap_or_default();
            found.is_object() && wanted(&found)
        });
        found
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = killpg(group_of(&self.child), signal);
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self, signal: Signal) -> Done {
        self.signal(signal);
        self.end()
    }

    /// Ends it at once, without a word.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.end();
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Done {
        self.end()
    }

    fn end(&mut self) -> Done {
        let deadline = Instant::now() + DEADLINE;
        let mut stdout = String::new();
        // Its output ends when it does.
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => stdout += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not end within {DEADLINE:?}\n{}", self.name, self.said())
                }
            }
        }
        let status = self.child.wait().expect("it is our child");
        Done {
            command: self.name.clone(),
            status: code(status),
            stdout,
            stderr: self.said(),
        }
    }

    /// All that it has said so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn note_lines(
    from: impl Read + Send + 'static,
    said: Arc<Mutex<String>>,
    mut tell: impl FnMut(String) + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
            drop(said);
            tell(line);
        }
    });
}

fn group_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid is positive"))
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(1))
}

/// Asks again and again until it is so: for what nobody announces.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
