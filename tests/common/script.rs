//! One script, run on a direct connection and through the proxy: every message must be the same.

use super::{Answer, Message, Result, Say, Target, Wire};

/// What a client says, and until when it listens after each thing said.
#[derive(Clone, Default)]
pub struct Script(Vec<(Say, Until)>);

#[derive(Clone, Copy)]
enum Until {
    /// So many ReadyForQuery.
    Ready(usize),
    /// A message of this type.
    Tag(u8),
    /// The end of the connection.
    Close,
}

impl Script {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says something and reads up to the ReadyForQuery of its last Query or Sync.
    #[must_use]
    pub fn say(mut self, say: Say) -> Self {
        let ready = say.ready();
        self.0.push((say, Until::Ready(ready)));
        self
    }

    /// One simple query.
    #[must_use]
    pub fn query(self, sql: &str) -> Self {
        self.say(Say::new().query(sql))
    }

    /// Says something and reads up to a message of this type.
    #[must_use]
    pub fn until(mut self, say: Say, tag: u8) -> Self {
        self.0.push((say, Until::Tag(tag)));
        self
    }

    /// Says something and reads until the server closes the connection.
    #[must_use]
    pub fn close(mut self, say: Say) -> Self {
        self.0.push((say, Until::Close));
        self
    }

    /// Runs it; all messages that came.
    pub fn run(&self, wire: &mut Wire) -> Result<Answer> {
        let mut messages = Vec::new();
        for (step, (say, until)) in self.0.iter().enumerate() {
            wire.say(say)?;
            let answer = match *until {
                Until::Ready(count) => wire.read_ready(count),
                Until::Tag(tag) => wire.read_until(tag, 1),
                Until::Close => wire.read_to_close(),
            };
            let answer = answer.map_err(|error| format!("step {step}, after {messages:#?}: {error:?}"))?;
            messages.extend(answer.0);
        }
        Ok(Answer(messages))
    }
}

/// Runs a script on a fresh connection to each of two targets; fails unless all messages are the same. Returns them.
pub fn compare(direct: &Target, proxy: &Target, script: &Script) -> Result<Answer> {
    let expected = script.run(&mut direct.connect()?)?;
    let got = script.run(&mut proxy.connect()?)?;
    compare_answers(&expected, &got)?;
    Ok(expected)
}

/// The same with many clients at once, each of which runs the script `rounds` times on one connection.
pub fn compare_crowd(direct: &Target, proxy: &Target, clients: usize, rounds: usize, script: &Script) -> Result {
    let mut wire = direct.connect()?;
    let expected: Vec<Answer> = (0..rounds).map(|_| script.run(&mut wire)).collect::<Result<_>>()?;
    crowd(clients, |_| {
        let mut wire = proxy.connect()?;
        for expected in &expected {
            compare_answers(expected, &script.run(&mut wire)?)?;
        }
        Ok(())
    })
}

/// Runs `act` on so many threads at once, each with its number; the first error of all.
pub fn crowd(clients: usize, act: impl Fn(usize) -> Result + Sync) -> Result {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || act(number))).collect();
        let ends = threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?);
        // All of them are awaited, whatever the first says.
        ends.collect::<Vec<Result>>().into_iter().collect()
    })
}

/// Fails unless two answers are the same, apart from the process id in notifications, and the place in PostgreSQL's
/// source that an error comes from (it differs when a statement was prepared on the client's behalf).
pub fn compare_answers(expected: &Answer, got: &Answer) -> Result {
    let (expected, got) = (masked(expected), masked(got));
    match expected.iter().zip(&got).position(|(expected, got)| expected != got) {
        Some(at) => {
            let (from, to) = (at.saturating_sub(3), at + 4);
            let part = |messages: &[Message]| format!("{:#?}", messages.get(from..to.min(messages.len())));
            Err(format!("message {at} differs; expected {}\ngot {}", part(&expected), part(&got)).into())
        }
        None if expected.len() != got.len() => {
            let common = expected.len().min(got.len());
            let (missing, surplus) = (expected.get(common..), got.get(common..));
            Err(format!("{common} messages are the same; missing {missing:?}, surplus {surplus:?}").into())
        }
        None => Ok(()),
    }
}

fn masked(answer: &Answer) -> Vec<Message> {
    let mut messages = answer.0.clone();
    for message in &mut messages {
        match message.tag {
            b'A' => message.body.iter_mut().take(4).for_each(|byte| *byte = 0),
            b'E' => {
                let fields = message.body.split(|&byte| byte == 0);
                let fields: Vec<_> =
                    fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R'))).collect();
                message.body = fields.join(&0);
            }
            _ => {}
        }
    }
    messages
}
