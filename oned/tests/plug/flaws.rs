//! Every call to a driver fails once, in each way; and each works while its answer is lost, so that it is made again.

use oned::engine::{Flaw, How};

use super::stories::{STORIES, Story, story};
use super::world::{Base, World};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;

impl World {
    /// Carries a story out while `flaw` happens; the calls that were made.
    fn act(&mut self, story: &Story, flaw: Option<Flaw>) -> Vec<&'static str> {
        self.plug().strike(flaw);
        story.ask(self);
        let mut cancelled = !story.cancels;
        self.settle_with(|world| {
            // Held in the middle of its copy.
            if !cancelled && world.plug().calls().last() == Some(&"datastore.store") {
                cancelled = true;
                let vm = world.jobs()[0].vm_id.unwrap();
                oned::api::backup::cancel(&world.cloud, &world.admin, vm).unwrap();
            }
        });
        let calls = self.plug().calls();
        self.plug().strike(None);
        calls
    }
}

/// Runs a story with one flaw, at each call.
fn flawed_everywhere(story: &Story, how: How) {
    let base = Base::new(|world| story.prepare(world));
    for call in 1.. {
        let mut world = World::open(&base.state(), base.restore());
        let calls = world.act(story, Some(Flaw { call, how }));
        let failed = call <= calls.len();
        println!("{}: {how:?} at call {call} of {calls:?}", story.name);
        if story.cancels {
            world.script("{}");
        }
        let may_fail = failed && is_for_good(how);
        story.ends(&mut world, may_fail);
        world.close();
        if !failed {
            break;
        }
    }
}

/// Whether the engine does not try again.
fn is_for_good(how: How) -> bool {
    matches!(how, How::Errno(EIO | ENOSPC | ESTALE))
}

fn every_story(how: How) {
    for story in &STORIES {
        flawed_everywhere(story, how);
    }
}

#[test]
fn an_error_of_any_call_leaves_everything_sound() {
    every_story(How::Errno(EIO));
}

#[test]
fn a_full_disk_at_any_call_leaves_everything_sound() {
    every_story(How::Errno(ENOSPC));
}

#[test]
fn a_stale_file_at_any_call_leaves_everything_sound() {
    every_story(How::Errno(ESTALE));
}

#[test]
fn a_time_out_of_any_call_is_no_failure() {
    every_story(How::Errno(ETIMEDOUT));
}

#[test]
fn a_call_whose_answer_is_lost_is_made_again_without_harm() {
    every_story(How::AnswerLost);
}

#[test]
fn a_connection_that_is_lost_at_any_call_is_taken_up_by_the_way_of_a_crash() {
    every_story(How::Away);
}

/// The calls after which the restore point of an increment is whole.
fn after_sealing(base: &Base, story: &Story) -> std::ops::RangeInclusive<usize> {
    let mut world = World::open(&base.state(), base.restore());
    let calls = world.act(story, None);
    world.close();
    let end = calls.iter().position(|call| *call == "hypervisor.end").unwrap() + 1;
    end..=calls.len()
}

#[test]
fn what_is_sealed_is_recorded_whatever_fails_afterwards() {
    let story = story("increment");
    let base = Base::new(|world| story.prepare(world));
    for call in after_sealing(&base, story) {
        for how in [How::Errno(EIO), How::AnswerLost, How::Away] {
            let mut world = World::open(&base.state(), base.restore());
            world.act(story, Some(Flaw { call, how }));
            story.ends(&mut world, false);
            world.close();
        }
    }
}

#[test]
fn a_point_that_was_published_is_recorded_although_the_answer_was_an_error() {
    let story = story("increment");
    let base = Base::new(|world| story.prepare(world));
    let mut world = World::open(&base.state(), base.restore());
    let fail =
        r#"{"operation":"store","call":1,"when":"after","fail":{"kind":"permanent","reason":"the answer was lost"}}"#;
    world.script(&format!("{{\"rules\":[{fail}]}}"));
    world.act(story, None);
    story.ends(&mut world, false);
    world.close();
}

#[test]
fn a_hypervisor_that_stays_away_holds_neither_the_vm_nor_a_whole_point() {
    let story = story("increment");
    let base = Base::new(|world| story.prepare(world));
    let sealed = after_sealing(&base, story);
    for call in 1..=*sealed.end() {
        let mut world = World::open(&base.state(), base.restore());
        // Longer than any job is tried.
        world.waits_until_mended = 12;
        world.act(story, Some(Flaw { call, how: How::Away }));
        assert!(world.was_released, "the VM waits for its hypervisor when call {call} finds it gone");
        let whole = sealed.contains(&call);
        story.ends(&mut world, !whole);
        world.close();
    }
}

#[test]
fn a_point_that_is_adopted_has_the_instant_of_its_session_and_says_why_everything_was_read() {
    let story = story("fallback");
    let base = Base::new(|world| story.prepare(world));
    let mut world = World::open(&base.state(), base.restore());
    let calls = world.act(story, None);
    let store = calls.iter().position(|call| *call == "datastore.store").unwrap() + 1;
    world.close();

    let mut world = World::open(&base.state(), base.restore());
    world.plug().strike(Some(Flaw { call: store, how: How::AnswerLost }));
    story.ask(&world);
    // The job waits for its turn.
    let begun = world.pass(100);
    world.settle();
    let point = world.points(0).pop().unwrap();
    assert_eq!(point.date, begun);
    assert!(point.reason.contains("the record of what changed was lost"), "{}", point.reason);
    assert!(point.warning.contains("taken up from there"), "{}", point.warning);
    world.close();
}
