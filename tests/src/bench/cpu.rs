//! Processor time of processes, as proc(5) counts it: it tells apart who works and who only waits, whatever else the
//! machine does.

use anyhow::{Context, Result};

/// The unit of the counters: USER_HZ, which is 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds used by a process (`self` or its number), user and system together.
///
/// # Errors
/// When there is no such process.
pub fn of_process(process: &str) -> Result<f64> {
    // Fields 14 and 15; the first two are gone.
    sum(process, 11)
}

/// Seconds used by those of its children that have ended and been waited for.
///
/// # Errors
/// When there is no such process.
pub fn of_children(process: &str) -> Result<f64> {
    sum(process, 13)
}

/// Seconds used by a process and all its descendants, those included that have ended and been waited for.
///
/// # Errors
/// When there is no such process.
pub fn of_tree(pid: i32) -> Result<f64> {
    let name = pid.to_string();
    let own = of_process(&name)? + of_children(&name)?;
    // One that ends meanwhile is counted with its parent at the next look.
    Ok(own + super::memory::children(pid).into_iter().filter_map(|child| of_tree(child).ok()).sum::<f64>())
}

fn sum(process: &str, at: usize) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in brackets, may hold blanks and brackets.
    let (_, fields) = text.rsplit_once(") ").with_context(|| path.clone())?;
    let ticks = fields.split(' ').skip(at).take(2).map(|field| field.trim().parse::<f64>().unwrap_or(0.0));
    Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_child_is_counted_when_it_has_ended() {
        let before = of_children("self").unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).status().unwrap();
        assert!(of_children("self").unwrap() > before);
        assert!(of_process("self").is_ok());
    }
}
