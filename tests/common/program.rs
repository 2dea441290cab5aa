//! Random programs: functions of a seed, run on a direct connection and through the proxy; one that fails is reduced to
//! the steps that matter. `PGFUNNEL_TEST_PROGRAMS` sets how many run.

use super::{Answer, Message, Result, Say, Target, compare_answers, crowd};

/// One thing that a client says, and its name for a report.
#[derive(Clone)]
pub struct Step {
    /// The messages.
    pub said: Say,
    /// For the report.
    pub name: String,
}

/// How a program is said.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// One step after the other, each answered before the next.
    Patient,
    /// All at once.
    Pipelined,
}

/// Runs a program; all that is answered.
///
/// A Query behind an error in the same batch is skipped up to the next Sync, so how many ReadyForQuery come is not
/// known beforehand. So each part is followed by something that cannot be mistaken: a step by a Sync and an empty
/// query, whose EmptyQueryResponse is the only one right behind a ReadyForQuery; a whole program by a row of its own.
fn run(target: &Target, program: &[Step], manner: Manner) -> Result<Answer> {
    let mut wire = target.connect()?;
    let mut answer = Answer::default();
    match manner {
        Manner::Patient => {
            for step in program {
                wire.say(&step.said.clone().sync().query(""))?;
                let from = answer.0.len();
                let ended = |new: &[Message]| Answer(new.to_vec()).tags().ends_with("ZIZ");
                while !ended(&answer.0[from..]) {
                    answer.0.push(wire.read().map_err(|error| format!("after {answer:?}: {error:?}"))?);
                }
            }
        }
        Manner::Pipelined => {
            let all = program.iter().fold(Say::new(), |say, step| say.and(&step.said));
            wire.say(&all.sync().query("rollback").query("select 'the end'"))?;
            let the_end = |message: &Message| message.row().is_some_and(|row| row == [Some("the end".into())]);
            while answer.status().is_none() || !answer.0.iter().rev().take(3).any(the_end) {
                answer.0.push(wire.read().map_err(|error| format!("after {answer:?}: {error:?}"))?);
            }
        }
    }
    Ok(answer)
}

fn differs(direct: &Target, proxy: &Target, program: &[Step], manner: Manner) -> Option<String> {
    let outcome =
        run(direct, program, manner).and_then(|expected| compare_answers(&expected, &run(proxy, program, manner)?));
    outcome.err().map(|error| format!("{error:?}"))
}

/// Takes away what does not matter, and says what is left.
fn reduced(direct: &Target, proxy: &Target, mut program: Vec<Step>, manner: Manner, mut why: String) -> String {
    let mut at = 0;
    while at < program.len() {
        let mut shorter = program.clone();
        shorter.remove(at);
        match differs(direct, proxy, &shorter, manner) {
            Some(error) => (program, why) = (shorter, error),
            None => at += 1,
        }
    }
    let steps: Vec<&str> = program.iter().map(|step| step.name.as_str()).collect();
    format!("{}\n{why}", steps.join("\n"))
}

/// How many programs run.
pub fn programs() -> u64 {
    std::env::var("PGFUNNEL_TEST_PROGRAMS").ok().and_then(|count| count.parse().ok()).unwrap_or(30)
}

/// Every program is the same on both: one client after the other, so that a failure can be reduced; then several at once.
pub fn agree(
    direct: &Target,
    through: &Target,
    program: &(impl Fn(u64) -> Vec<Step> + Sync),
    manner: Manner,
) -> Result {
    for seed in 0..programs() {
        if let Some(why) = differs(direct, through, &program(seed), manner) {
            return Err(format!("seed {seed}: {}", reduced(direct, through, program(seed), manner, why)).into());
        }
    }
    crowd(6, |number| {
        let first = 1_000_000 * (1 + u64::try_from(number)?);
        for seed in first..first + programs() / 3 {
            if let Some(why) = differs(direct, through, &program(seed), manner) {
                let steps: Vec<String> = program(seed).into_iter().map(|step| step.name).collect();
                return Err(format!("seed {seed}:\n{}\n{why}", steps.join("\n")).into());
            }
        }
        Ok(())
    })
}
