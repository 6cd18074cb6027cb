//! `onevm recover`: how an operation ended that the daemon has no answer for.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::reach::reason;
use crate::commands::verbs::Several;
use crate::objects::VM;
use crate::wire::Client;
use crate::{each, states, terminal};

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    result: RecoverResult,
    /// Show each VM and ask; with a result, Enter means that one
    #[arg(long)]
    interactive: bool,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct RecoverResult {
    /// It failed
    #[arg(long)]
    failure: bool,
    /// It succeeded
    #[arg(long)]
    success: bool,
    /// Try it again
    #[arg(long)]
    retry: bool,
    /// Remove the VM
    #[arg(long)]
    delete: bool,
    /// Remove the VM and create it anew with fresh disks
    #[arg(long)]
    recreate: bool,
    /// Remove the record only, nothing on the host
    #[arg(long)]
    delete_db: bool,
}

/// What the numbers of the call mean, in their order.
const OPERATIONS: [&str; 6] = ["failure", "success", "retry", "delete", "recreate", "delete-db"];

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let result = &options.result;
    let choices = [result.failure, result.success, result.retry, result.delete, result.recreate, result.delete_db];
    let chosen = (0_i64..).zip(choices).find(|(_, chosen)| *chosen).map(|(number, _)| number);
    if chosen.is_none() && !options.interactive {
        bail!("Need to specify the result of the pending action.");
    }
    each(&VM.ids(client, &options.target.ids)?, |id| {
        let operation = if options.interactive { ask(client, id, chosen)? } else { chosen };
        let Some(operation) = operation else { return Ok(()) };
        client.call("one.vm.recover", [id.into(), operation.into()]).map(|_| ())
    })
}

/// What leaves a VM as it is.
const LEAVE: &str = "-";

/// Tells where the VM is and asks for a word of [`OPERATIONS`]; None leaves it as it is. An empty line means `proposed`.
fn ask(client: &Client, id: i64, proposed: Option<i64>) -> Result<Option<i64>> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on: say what became of it, --success, --failure or --retry for instance");
    }
    let vm = VM.info(client, id, false)?;
    let (name, phase) = (vm.text_at("NAME"), states::vm_phase(&vm));
    terminal::complain(&format!("VM {id} ({name}) is in {phase}{}", reason(&vm)));
    let name_of = |number: i64| usize::try_from(number).ok().and_then(|index| OPERATIONS.get(index)).copied();
    let enter = match proposed.and_then(name_of) {
        Some(name) => format!("Enter: {name}; {LEAVE} leaves it as it is"),
        None => "Enter leaves it as it is".to_owned(),
    };
    loop {
        terminal::warn_raw(&format!("{} ({enter}): ", OPERATIONS.join(", ")));
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("reading the answer")? == 0 {
            return Ok(None);
        }
        match (line.trim(), operation(&line)) {
            ("", _) => return Ok(proposed),
            (LEAVE, _) => return Ok(None),
            (_, Some(operation)) => return Ok(Some(operation)),
            (word, None) => terminal::complain(&format!("{word} is none of them")),
        }
    }
}

/// The number of a word, or of its beginning if only one begins so.
fn operation(word: &str) -> Option<i64> {
    let word = word.trim().to_lowercase();
    let like = |name: &&(i64, &str)| name.1.starts_with(&word);
    let known: Vec<(i64, &str)> = (0..).zip(OPERATIONS).collect();
    let exact = known.iter().find(|(_, name)| *name == word);
    let begun = known.iter().find(like).filter(|_| known.iter().filter(like).count() == 1);
    exact.or(begun).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_or_its_beginning_names_an_operation() {
        let cases = [("failure", 0), ("Success\n", 1), ("ret", 2), ("delete", 3), ("rec", 4), ("delete-", 5)];
        for (word, number) in cases {
            assert_eq!(operation(word), Some(number), "{word}");
        }
        for word in ["r", "del", "", "nothing"] {
            assert_eq!(operation(word), None, "{word}");
        }
    }
}
