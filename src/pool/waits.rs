//! Since when clients wait: who looks is told the longest wait.

use std::collections::VecDeque;

use crate::clock::Moment;

/// When those who wait began to, and how many at that moment. Waits end about in the order in which they began, so that
/// the ends of a queue are nearly all that is touched.
#[derive(Debug, Default)]
pub(super) struct Waits {
    asked: VecDeque<(Moment, usize)>,
    /// Moments in between at which nobody began who still waits.
    gone: usize,
}

impl Waits {
    /// Somebody waits since then.
    pub(super) fn enter(&mut self, asked: Moment) {
        match self.asked.back_mut() {
            Some((last, count)) if *last == asked => *count += 1,
            Some((last, _)) if *last > asked => self.enter_between(asked),
            _ => self.asked.push_back((asked, 1)),
        }
    }

    /// Another thread was faster.
    fn enter_between(&mut self, asked: Moment) {
        let at = self.asked.partition_point(|(known, _)| *known < asked);
        match self.asked.get_mut(at) {
            Some((known, count)) if *known == asked => {
                self.gone -= usize::from(*count == 0);
                *count += 1;
            }
            _ => self.asked.insert(at, (asked, 1)),
        }
    }

    /// Somebody who waited since then does not any more.
    pub(super) fn leave(&mut self, asked: Moment) {
        let at = self.asked.partition_point(|(known, _)| *known < asked);
        let Some((_, count)) = self.asked.get_mut(at).filter(|(known, count)| *known == asked && *count > 0) else {
            return;
        };
        *count -= 1;
        self.gone += usize::from(*count == 0);
        while self.asked.pop_front_if(|(_, count)| *count == 0).is_some() {
            self.gone -= 1;
        }
        // One that waits for long does not keep what came and went behind it.
        if self.gone > 32 && self.gone > self.asked.len() / 2 {
            self.asked.retain(|(_, count)| *count > 0);
            self.gone = 0;
        }
    }

    /// Since when the one waits that waits longest.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.asked.front().map(|(asked, _)| *asked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_map_would_have_it(steps in proptest::collection::vec((any::<bool>(), 0..40u64), 0..400)) {
            let (mut waits, mut map) = (Waits::default(), BTreeMap::<Moment, usize>::new());
            for (number, (enters, at)) in steps.into_iter().enumerate() {
                // Mostly in order.
                let moment = |at| Moment::default() + Duration::from_nanos(at);
                if enters {
                    let asked = moment(number as u64 / 2 + at / 10);
                    waits.enter(asked);
                    *map.entry(asked).or_default() += 1;
                } else if let Some(asked) = map.keys().nth(at as usize % map.len().max(1)).copied() {
                    waits.leave(asked);
                    let count = map.get_mut(&asked).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        map.remove(&asked);
                    }
                }
                prop_assert_eq!(waits.oldest(), map.keys().next().copied());
                prop_assert!(waits.asked.len() <= 2 * map.len() + 34, "{} for {}", waits.asked.len(), map.len());
            }
        }
    }
}
