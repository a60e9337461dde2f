//! `mintmark completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;

pub const EXAMPLES: &str = "\
Examples:
  mintmark completions bash > ~/.local/share/bash-completion/completions/mintmark
  mintmark completions zsh > ~/.zfunc/_mintmark
  mintmark completions fish > ~/.config/fish/completions/mintmark.fish";

/// Which shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// Your shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "mintmark", &mut script);
        context.out.text(&String::from_utf8_lossy(&script))
    }
}
