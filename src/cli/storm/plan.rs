//! What an environment does and how it ends. Pure and reproducible: the same number always lives the same life, so
//! that two storms with the same options can be compared.

use std::time::Duration;

use super::options::Messages;

/// What every environment has in common.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) environments: u32,
    pub(super) rate: Rate,
    pub(super) first_query: String,
    pub(super) transactions: u32,
    /// What stands between BEGIN and COMMIT.
    pub(super) statement: String,
    pub(super) messages: Messages,
    /// Mean time between two transactions.
    pub(super) freeze: Duration,
    /// In percent.
    pub(super) reap_without_fin: u8,
    /// In percent.
    pub(super) die_in_transaction: u8,
    pub(super) connect_timeout: Duration,
    /// For the first query, and for each transaction as a whole.
    pub(super) query_timeout: Duration,
}

/// So many environments in so much time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) count: u32,
    pub(super) per: Duration,
}

impl Rate {
    /// When environment number `index` starts, counted from the storm's start.
    pub(super) fn due(self, index: u32) -> Duration {
        self.per.mul_f64(f64::from(index) / f64::from(self.count))
    }
}

/// How an environment leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Terminate, then FIN: the runtime had time for its shutdown hook.
    Terminate,
    /// FIN without Terminate: the process was killed, its kernel was not.
    Fin,
    /// RST: what a peer hears of a machine that is gone, once somebody asks.
    Reset,
    /// Nothing at all: the socket stays open and unread until the storm is over.
    Silence,
    /// Killed in its last transaction, after BEGIN and before COMMIT: RST.
    InTransaction,
}

impl Plan {
    /// How environment number `index` leaves.
    pub(super) fn ending(&self, index: u32) -> Ending {
        let draw = fraction(index, u32::MAX) * 100.0;
        let died = if self.transactions == 0 { 0.0 } else { f64::from(self.die_in_transaction) };
        let without_fin = f64::from(self.reap_without_fin).min(100.0 - died);
        match index % 2 {
            _ if draw < died => Ending::InTransaction,
            0 if draw < died + without_fin => Ending::Reset,
            _ if draw < died + without_fin => Ending::Silence,
            0 => Ending::Terminate,
            _ => Ending::Fin,
        }
    }

    /// How long environment number `index` is frozen after its transaction number `transaction`: half to one and a
    /// half times the mean, so that thaws do not march in step.
    pub(super) fn freeze(&self, index: u32, transaction: u32) -> Duration {
        self.freeze.mul_f64(0.5 + fraction(index, transaction))
    }
}

/// A well-mixed number in 0..1 for two indices (splitmix64, Vigna 2015).
fn fraction(a: u32, b: u32) -> f64 {
    let mut z = (u64::from(a) << 32 | u64::from(b)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 53 bits are what an f64 holds exactly.
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(reap_without_fin: u8, die_in_transaction: u8) -> Plan {
        Plan {
            environments: 10_000,
            rate: Rate { count: 1, per: Duration::ZERO },
            first_query: String::new(),
            transactions: 1,
            statement: String::new(),
            messages: Messages::One,
            freeze: Duration::from_secs(1),
            reap_without_fin,
            die_in_transaction,
            connect_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
        }
    }

    fn share(plan: &Plan, ending: Ending) -> f64 {
        let count = (0..plan.environments).filter(|&i| plan.ending(i) == ending).count();
        count as f64 * 100.0 / f64::from(plan.environments)
    }

    #[test]
    fn endings_have_their_shares() {
        let plan = plan(10, 2);
        for (ending, percent) in [
            (Ending::InTransaction, 2.0),
            (Ending::Reset, 5.0),
            (Ending::Silence, 5.0),
            (Ending::Terminate, 44.0),
            (Ending::Fin, 44.0),
        ] {
            let seen = share(&plan, ending);
            assert!((seen - percent).abs() < 1.0, "{ending:?}: {seen} percent");
        }
    }

    #[test]
    fn shares_of_none_and_all() {
        assert_eq!(share(&plan(0, 100), Ending::InTransaction), 100.0);
        assert_eq!(share(&plan(100, 100), Ending::InTransaction), 100.0);
        let all = plan(100, 0);
        assert_eq!(share(&all, Ending::Reset) + share(&all, Ending::Silence), 100.0);
        let none = plan(0, 0);
        assert_eq!(share(&none, Ending::Terminate) + share(&none, Ending::Fin), 100.0);
        assert_eq!(share(&Plan { transactions: 0, ..plan(0, 100) }, Ending::InTransaction), 0.0);
    }

    #[test]
    fn freezes_vary_around_their_mean() {
        let plan = plan(0, 0);
        let freezes: Vec<f64> = (0..1_000).map(|i| plan.freeze(i, 3).as_secs_f64()).collect();
        assert!(freezes.iter().all(|f| (0.5..1.5).contains(f)));
        let mean = freezes.iter().sum::<f64>() / 1e3;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
    }
}
