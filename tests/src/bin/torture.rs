//! Backups of several VMs at once while everything that takes part is killed at random: see [`system_tests::torture`].
//!
//! `torture [--rounds N] [--seed S] [--from N]`: 200 rounds, or N, drawn from a seed (of the clock, or S); `--from` leaves out
//! the rounds before, to come sooner to one that failed. What explains a failure is kept in `torture/` of the build directory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use system_tests::place;
use system_tests::torture::Torture;
use system_tests::torture::plan::round_seed;

struct Wish {
    rounds: u64,
    seed: u64,
    from: u64,
}

fn wish() -> Result<Wish> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut wish = Wish { rounds: 200, seed: u64::from(clock.subsec_nanos()), from: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().unwrap_or_default();
            text.parse().with_context(|| format!("{argument} wants a number, not {text:?}"))
        };
        match argument.as_str() {
            "--rounds" => wish.rounds = number()?,
            "--seed" => wish.seed = number()?,
            "--from" => wish.from = number()?.max(1),
            _ => bail!("usage: torture [--rounds N] [--seed S] [--from N]"),
        }
    }
    Ok(wish)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let wish = wish()?;
    let began = Instant::now();
    println!("{} rounds from seed {}", wish.rounds, wish.seed);
    let mut torture = Torture::start()?;
    for round in wish.from..=wish.rounds {
        match torture.round(round_seed(wish.seed, round)) {
            Ok(told) => println!("round {round} of {}: {told}", wish.rounds),
            Err(error) => {
                let folder = place::cache("torture")?.join(format!("{}-{round}", wish.seed));
                torture.keep_evidence(&folder)?;
                let again = format!("again with: make torture SEED={} ROUNDS={round}", wish.seed);
                let evidence = folder.display();
                return Err(error.context(format!("round {round} of seed {} ({again}; logs in {evidence})", wish.seed)));
            }
        }
    }
    let tally = torture.finish().with_context(|| format!("after all rounds of seed {}", wish.seed))?;
    println!("{tally}; {} s", began.elapsed().as_secs());
    Ok(())
}
