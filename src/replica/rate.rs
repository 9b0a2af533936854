//! How much to ask for in the next tick of a resync: DRBD's dynamic controller.
//!
//! Keeps `want` sectors on their way and spreads each correction over a planning horizon (drbd-semantics: "Rate control"). With
//! `c-plan-ahead 0` the rate is fixed.

use std::time::Duration;

use super::settings::ResyncSettings;

/// Time between two decisions.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Sectors in one KiB/s over one tick: 2 sectors a KiB, ten ticks a second.
const fn sectors_per_tick(rate_kib: u32) -> i64 {
    rate_kib as i64 * 2 / 10
}

/// The controller's memory.
#[derive(Debug)]
pub(super) struct Controller {
    settings: ResyncSettings,
    /// One correction per future tick, a ring; sectors.
    plan: Vec<i64>,
    head: usize,
    plan_total: i64,
    /// Sectors asked for and not arrived.
    in_flight: i64,
    /// Sectors arrived since the last tick.
    arrived: i64,
    /// What the last tick allowed; for status.
    budget: u64,
}

impl Controller {
    pub(super) fn new(settings: ResyncSettings) -> Self {
        let steps = settings.plan_ahead.max(1) as usize;
        Self { settings, plan: vec![0; steps], head: 0, plan_total: 0, in_flight: 0, arrived: 0, budget: 0 }
    }

    /// Other settings count from now on. What was planned was planned by the old ones.
    pub(super) fn adopt(&mut self, settings: ResyncSettings) {
        let Self { in_flight, arrived, budget, .. } = *self;
        *self = Self { in_flight, arrived, budget, ..Self::new(settings) };
    }

    /// Sectors have been asked for.
    pub(super) fn requested(&mut self, sectors: u64) {
        self.in_flight += sectors as i64;
    }

    /// Sectors have arrived (or been refused).
    pub(super) fn arrived(&mut self, sectors: u64) {
        self.arrived += sectors as i64;
    }

    /// The most that may be asked for in one tick, sectors.
    pub(super) fn ceiling_sectors(&self) -> u64 {
        sectors_per_tick(self.settings.max_rate_kib).max(8) as u64
    }

    /// How much to keep on its way by asking again as soon as something has arrived; 0: only ticks ask.
    pub(super) fn fill_sectors(&self) -> u64 {
        if self.settings.plan_ahead == 0 { 0 } else { u64::from(self.settings.fill_target) }
    }

    /// What the last tick allowed, as a rate.
    pub(super) fn want_kib_per_s(&self) -> u64 {
        self.budget * 10 / 2
    }

    /// How many sectors to ask for now. Called once a tick.
    pub(super) fn budget_sectors(&mut self) -> u64 {
        self.budget = self.next_budget();
        self.budget
    }

    fn next_budget(&mut self) -> u64 {
        if self.settings.plan_ahead == 0 {
            self.in_flight -= std::mem::take(&mut self.arrived);
            return sectors_per_tick(self.settings.rate_kib).max(8) as u64;
        }
        let steps = self.plan.len() as i64;
        let arrived = std::mem::take(&mut self.arrived);
        let idle = self.in_flight == 0;
        self.in_flight -= arrived;
        let want = if idle && arrived == 0 {
            sectors_per_tick(self.settings.rate_kib) * steps
        } else if self.settings.fill_target != 0 {
            i64::from(self.settings.fill_target)
        } else {
            arrived * i64::from(self.settings.delay_target)
        };
        let correction = (want - self.in_flight - self.plan_total) / steps;
        for slot in &mut self.plan {
            *slot += correction;
        }
        self.plan_total += correction * steps;
        let current = std::mem::take(&mut self.plan[self.head]);
        self.head = (self.head + 1) % self.plan.len();
        self.plan_total -= current;
        let ceiling = sectors_per_tick(self.settings.max_rate_kib);
        (arrived + current).clamp(0, ceiling) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_an_immediate_peer_the_rate_grows_and_stays_under_the_ceiling() {
        let mut controller = Controller::new(ResyncSettings::DEFAULT);
        let mut last = 0;
        for _ in 0..200 {
            last = controller.budget_sectors();
            controller.requested(last);
            controller.arrived(last);
        }
        assert!(last > 0 && last <= 20_480, "{last} sectors a tick");
    }

    #[test]
    fn other_settings_count_from_the_next_tick_and_what_is_on_its_way_is_not_forgotten() {
        let mut controller = Controller::new(ResyncSettings::DEFAULT);
        controller.budget_sectors();
        controller.requested(500);
        controller.adopt(ResyncSettings { plan_ahead: 300, max_rate_kib: 100, ..ResyncSettings::DEFAULT });
        assert_eq!((controller.plan.len(), controller.in_flight), (300, 500));
        controller.arrived(500);
        assert_eq!(controller.budget_sectors(), 20, "100 KiB/s");
        controller.adopt(ResyncSettings { plan_ahead: 0, rate_kib: 500, ..ResyncSettings::DEFAULT });
        assert_eq!(controller.budget_sectors(), 100);
    }

    #[test]
    fn without_a_plan_the_rate_is_fixed() {
        let mut controller = Controller::new(ResyncSettings { plan_ahead: 0, ..ResyncSettings::DEFAULT });
        assert_eq!(controller.budget_sectors(), 50);
        assert_eq!(controller.budget_sectors(), 50);
    }
}
