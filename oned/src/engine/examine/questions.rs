//! Asks many questions side by side, each with a deadline of its own.
//!
//! A question that hangs keeps its thread, which nobody can end; it is not asked a second time while that is so. Answers come
//! back in the order of the questions.

use std::collections::HashSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::examination::Fact;

/// Questions that are asked at a time; those that are late do not count.
const MOST: usize = 32;

/// What is asked, and of whom.
pub(super) struct Question {
    name: &'static str,
    subject: String,
    ask: Box<dyn FnOnce() -> Vec<Fact> + Send>,
}

impl Question {
    pub(super) fn new(name: &'static str, subject: String, ask: impl FnOnce() -> Vec<Fact> + Send + 'static) -> Self {
        Self { name, subject, ask: Box::new(ask) }
    }
}

/// How long is waited.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For one question.
    pub(super) each: Duration,
    /// For all of them.
    pub(super) all: Duration,
}

type Open = Arc<Mutex<HashSet<(&'static str, String)>>>;

/// The questions that were not answered yet.
#[derive(Default)]
pub(in crate::engine) struct Asked(Open);

/// Takes a question from the list however its thread ends.
struct Done(Open, (&'static str, String));

impl Drop for Done {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A question that was asked.
enum Seat {
    Waits(Question),
    Asked(Instant),
    Answered(Vec<Fact>),
    /// Not asked: an earlier thread still hangs at it, or there is none for it.
    Left,
}

impl Asked {
    /// Asks all of them. What does not answer in time is [`Fact::Late`].
    pub(super) fn all(&self, questions: Vec<Question>, patience: Patience) -> Vec<Fact> {
        let begun = Instant::now();
        let late: Vec<Fact> = questions.iter().map(|one| self.late(one, patience)).collect();
        let mut seats: Vec<Seat> = questions.into_iter().map(Seat::Waits).collect();
        let (sender, answers) = mpsc::channel();
        loop {
            self.seat(&mut seats, patience, &sender);
            let now = Instant::now();
            let left = patience.all.saturating_sub(now - begun);
            // When the next of them gets late.
            let open = seats.iter().filter_map(|seat| match seat {
                Seat::Asked(since) => Some(patience.each.saturating_sub(now - *since)),
                Seat::Waits(_) | Seat::Answered(_) | Seat::Left => None,
            });
            let waits = seats.iter().any(|seat| matches!(seat, Seat::Waits(_)));
            let Some(next) = open.filter(|left| !left.is_zero()).min().or(waits.then_some(Duration::ZERO)) else {
                break;
            };
            if left.is_zero() {
                break;
            }
            match answers.recv_timeout(next.min(left)) {
                Ok((number, facts)) => seats[number] = Seat::Answered(facts),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        let ended = seats.into_iter().zip(late);
        let answer = |(seat, late)| match seat {
            Seat::Answered(facts) => facts,
            Seat::Waits(_) | Seat::Asked(_) | Seat::Left => vec![late],
        };
        ended.flat_map(answer).collect()
    }

    /// Asks as many as may be asked now.
    fn seat(&self, seats: &mut [Seat], patience: Patience, sender: &mpsc::Sender<(usize, Vec<Fact>)>) {
        let in_time = |seat: &Seat| matches!(seat, Seat::Asked(since) if since.elapsed() < patience.each);
        let mut free = MOST.saturating_sub(seats.iter().filter(|seat| in_time(seat)).count());
        for (number, seat) in seats.iter_mut().enumerate() {
            if free == 0 {
                return;
            }
            if let Seat::Waits(_) = seat {
                free -= 1;
                let Seat::Waits(question) = std::mem::replace(seat, Seat::Asked(Instant::now())) else { continue };
                if !self.ask(question, number, sender.clone()) {
                    *seat = Seat::Left;
                }
            }
        }
    }

    fn ask(&self, question: Question, number: usize, sender: mpsc::Sender<(usize, Vec<Fact>)>) -> bool {
        let key = (question.name, question.subject);
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return false;
        }
        let done = Done(Arc::clone(&self.0), key);
        let ask = question.ask;
        let work = move || {
            // Taken along, so that it is dropped also when the question panics.
            let done = done;
            let facts = ask();
            // First: who has the answer may ask again at once.
            drop(done);
            // Nobody listens any more when it took too long.
            let _ = sender.send((number, facts));
        };
        std::thread::Builder::new().name(format!("examine-{number}")).spawn(work).is_ok()
    }

    fn late(&self, question: &Question, patience: Patience) -> Fact {
        Fact::Late { name: question.name, subject: question.subject.clone(), seconds: patience.each.as_secs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(name: &'static str, count: usize) -> Question {
        Question::new(name, String::new(), move || vec![Fact::Hosts(count)])
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions_and_what_hangs_is_late() {
        let patience = Patience { each: Duration::from_millis(300), all: Duration::from_secs(60) };
        let (let_go, held) = mpsc::channel::<()>();
        let hanging = move || {
            let _ = held.recv();
            Vec::new()
        };
        let asked = Asked::default();
        let mut questions = vec![quick("a", 1), Question::new("b", "x".into(), hanging)];
        questions.extend(
            (0..2 * MOST).map(|number| Question::new("c", number.to_string(), move || vec![Fact::Hosts(number)])),
        );
        let facts = asked.all(questions, patience);
        let late = |seconds| Fact::Late { name: "b", subject: "x".into(), seconds };
        assert_eq!(facts[..3], [Fact::Hosts(1), late(0), Fact::Hosts(0)]);
        assert_eq!(facts.len(), 2 + 2 * MOST);
        assert_eq!(facts.last(), Some(&Fact::Hosts(2 * MOST - 1)));

        // As long as it hangs, nobody asks it again.
        let again = Question::new("b", "x".into(), || panic!("asked a second time"));
        assert_eq!(asked.all(vec![again, quick("a", 2)], patience), [late(0), Fact::Hosts(2)]);
        drop(let_go);
    }

    #[test]
    fn all_together_end_in_time_and_one_that_panics_is_late() {
        let patience = Patience { each: Duration::from_secs(1), all: Duration::from_millis(200) };
        let panicking = Question::new("p", String::new(), || panic!("as it may happen"));
        let facts = Asked::default().all(vec![panicking], patience);
        assert_eq!(facts, [Fact::Late { name: "p", subject: String::new(), seconds: 1 }]);
    }
}
