//! Whose turn it is to bring a resource up or down: one at a time, and each resource for itself, so that a disk that does
//! not answer holds up nobody but its own resource.
//!
//! Waiting for a turn can be given up, and then nothing was begun. Who has it keeps it to the end of the work, whether or not
//! somebody still waits for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::server::Out;
use crate::control::Verb;

/// The resources that somebody brings up or down, or waits to.
#[derive(Debug, Default)]
pub(super) struct Lives(Mutex<BTreeMap<String, Weak<Life>>>);

#[derive(Debug)]
struct Life {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// For those who wait: what the one does whose turn it is.
    verb: Mutex<Verb>,
}

/// The turn; the next one has it when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    _life: Arc<Life>,
}

impl Lives {
    /// Waits for the turn to do `verb` to a resource, and says whose end that is.
    pub(super) async fn turn(&self, name: &str, verb: Verb, out: &Out) -> Turn {
        let life = self.life(name, verb);
        let guard = if let Ok(guard) = Arc::clone(&life.turn).try_lock_owned() {
            guard
        } else {
            let under_way = life.verb.lock().unwrap_or_else(PoisonError::into_inner).name();
            out.waits_for(format!("the end of `{under_way} {name}`, which is under way"));
            Arc::clone(&life.turn).lock_owned().await
        };
        *life.verb.lock().unwrap_or_else(PoisonError::into_inner) = verb;
        Turn { _guard: guard, _life: life }
    }

    fn life(&self, name: &str, verb: Verb) -> Arc<Life> {
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(life) = lives.get(name).and_then(Weak::upgrade) {
            return life;
        }
        // Names come from whoever asks: those that nobody has in hands are not kept.
        lives.retain(|_, life| life.strong_count() > 0);
        let life = Arc::new(Life { turn: Arc::default(), verb: Mutex::new(verb) });
        lives.insert(name.to_owned(), Arc::downgrade(&life));
        life
    }
}
