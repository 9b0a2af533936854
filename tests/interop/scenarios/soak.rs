//! Everything that happens to a pair, at random, again and again: roles change, cables are cut, daemons are killed, disks go,
//! the power fails. What was acknowledged is kept beside, byte for byte, and compared with both disks after each round.

use crate::harness::disks::read_at;
use crate::harness::load::Dice;
use crate::harness::seed;
use crate::pair::{Lab, Pair, Side, bytes, options};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Of a volume on 64 MiB, without the metadata.
const BYTES: u64 = 60 * MIB;

/// What one round does.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// The cable is cut and mended.
    Cut,
    Disconnect,
    Switch,
    /// The Secondary dies and comes back.
    SecondaryDies,
    /// The Primary dies, the other one is promoted.
    PrimaryDies,
    SecondaryDetaches,
    PrimaryDetaches,
    Invalidate,
    /// Both die, the Primary's role goes to either.
    BothDie,
}

const HAPPENINGS: &[Happening] = &[
    Happening::Cut,
    Happening::Disconnect,
    Happening::Switch,
    Happening::SecondaryDies,
    Happening::PrimaryDies,
    Happening::SecondaryDetaches,
    Happening::PrimaryDetaches,
    Happening::Invalidate,
    Happening::BothDie,
];

struct Soak<'a> {
    pair: Pair<'a>,
    primary: Side,
    dice: Dice,
    /// What the volume must hold.
    shadow: Vec<u8>,
    written: u64,
}

impl Soak<'_> {
    fn write(&mut self) {
        for _ in 0..=self.dice.below(4) {
            let sectors = 1 + self.dice.below(128);
            let place = self.dice.below(BYTES / 512 - sectors) * 512;
            self.written += 1;
            let bytes = bytes(self.written, (sectors * 512) as usize);
            self.pair.write(self.primary, place, &bytes);
            self.shadow[place as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn die(&mut self, side: Side) {
        match side {
            Side::Ours => self.pair.ours.kill9(),
            Side::Kernels => self.pair.pull_the_plug(),
        }
    }

    fn come_back(&mut self, side: Side) {
        match side {
            Side::Ours => {
                self.pair.ours.start();
                self.pair.ours.up();
            }
            Side::Kernels => self.pair.act(side, "up data"),
        }
    }

    fn play(&mut self, happening: Happening) {
        let (primary, secondary) = (self.primary, self.primary.other());
        self.write();
        match happening {
            Happening::Cut => {
                self.pair.cut();
                self.pair.wait_parted(primary);
                self.write();
                self.pair.wait_parted(secondary);
                self.pair.heal();
            }
            Happening::Disconnect => {
                let side = if self.dice.below(2) == 0 { primary } else { secondary };
                self.pair.act(side, "disconnect data");
                self.write();
                self.pair.act(side, "connect data");
            }
            Happening::Switch => {
                self.pair.demote(primary);
                self.primary = secondary;
                self.pair.promote(secondary);
            }
            Happening::SecondaryDies => {
                self.die(secondary);
                self.pair.wait_parted(primary);
                self.write();
                self.come_back(secondary);
            }
            Happening::PrimaryDies => {
                self.die(primary);
                self.pair.wait_parted(secondary);
                self.primary = secondary;
                self.pair.promote(secondary);
                self.write();
                self.come_back(primary);
            }
            Happening::SecondaryDetaches => {
                self.pair.act(secondary, "detach data");
                self.write();
                self.pair.act(secondary, "attach data");
            }
            Happening::PrimaryDetaches => {
                self.pair.act(primary, "detach data");
                self.write();
                self.pair.act(primary, "attach data");
            }
            Happening::Invalidate => {
                self.pair.act(secondary, "invalidate data");
                self.write();
            }
            Happening::BothDie => {
                self.die(secondary);
                self.pair.wait_parted(primary);
                self.die(primary);
                self.come_back(primary);
                self.come_back(secondary);
                self.pair.wait_connected();
                self.pair.wait_in_sync();
                self.primary = if self.dice.below(2) == 0 { primary } else { secondary };
                self.pair.promote(self.primary);
            }
        }
        self.write();
        self.pair.assert_identical();
        let found = read_at(&self.pair.ours.disks[0], 0, self.shadow.len());
        let lost = found.chunks(512).zip(self.shadow.chunks(512)).position(|(found, written)| found != written);
        assert!(lost.is_none(), "what was acknowledged is lost: first at sector {}", lost.unwrap_or_default());
    }
}

/// Half of what can happen, the other half with the other node as the first Primary; or rounds for as many seconds as `SHIMAI_INTEROP_SECONDS` says.
pub(crate) fn soak(lab: &mut Lab, actor: Side) {
    let dice = Dice::new(seed(700) + u64::from(actor == Side::Ours));
    let limit = std::env::var("SHIMAI_INTEROP_SECONDS").ok().map(|text| {
        let seconds: u64 = text.parse().unwrap_or_else(|_| panic!("SHIMAI_INTEROP_SECONDS={text:?} is no number"));
        // One half begins with either node as the Primary.
        Duration::from_secs(seconds) / 2
    });
    let pair = Pair::serving(lab, &options(), actor);
    let mut soak = Soak { pair, primary: actor, dice, shadow: vec![0; BYTES as usize], written: 0 };
    let begin = Instant::now();
    let mut rounds = 0;
    while limit.map_or(rounds < HAPPENINGS.len().div_ceil(2), |limit| begin.elapsed() < limit) {
        // Each happens once before the dice decide.
        let dice = soak.dice.below(HAPPENINGS.len() as u64) as usize;
        let next = 2 * rounds + usize::from(actor == Side::Ours);
        let happening = HAPPENINGS.get(next).copied().unwrap_or(HAPPENINGS[dice]);
        println!("round {rounds}, {} is Primary: {happening:?}", soak.primary);
        soak.play(happening);
        rounds += 1;
    }
    println!("{rounds} rounds, {} writes, nothing lost", soak.written);
}
