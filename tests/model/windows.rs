//! Moves of windows: the driver, the change, the watchdog, and what operators say.

use pglull::ids::{Epoch, Moment};
use pglull::pool::ledger::Grant;
use pglull::window::event::{Effect, Event, Verdict};
use pglull::window::machine::Phase;
use pglull::window::plan::{Form, Stragglers};

use crate::moves::{Check, Do, Model, Word, failed};
use crate::mutant::{Mutant, step_with};
use crate::rules;
use crate::world::{At, CLIENTS, Change, Crashed, Mirror, SECOND, Win, World};

/// Windows: their drivers, changes, watchdogs, operators.
impl Model {
    pub(crate) fn moves_of_window(&self, world: &World, ix: usize, win: &Win, moves: &mut Vec<Do>) {
        if win.changing() {
            // A trial sends no COMMIT.
            let trial = win.window.form == Form::Trial && !self.is(Mutant::TrialCommits);
            moves.extend([Do::RollBack(ix), Do::Lost(ix, false)]);
            moves.extend([Do::Commit(ix), Do::Lost(ix, true)].into_iter().filter(|_| !trial));
        }
        if win.watch.is_some_and(|bound| bound.0 + u64::from(self.plan.prompt) <= world.now.0)
            && !self.is(Mutant::WatchdogDead)
        {
            moves.push(Do::Watchdog(ix));
        }
        if win.dead {
            return;
        }
        if !win.pending.is_empty() {
            moves.push(Do::Perform(ix));
        }
        let open_asked = win.pending.contains(&Effect::Open);
        let early = self.is(Mutant::ReleasedEarly) && !open_asked;
        let words = [
            (win.preflight, Word::Passed),
            (win.preflight, Word::Refused),
            (win.preflight && win.window.form == Form::Apply, Word::Present),
            (win.record, Word::Recorded),
            (win.record, Word::NotRecorded),
            (win.drained, Word::Drained),
            (win.lost, Word::GateLost),
            (win.heal, Word::Healed),
            (win.verdict.is_some(), Word::Verdict),
            (world.released(win) || early, Word::Released),
            (world.overheld(win), Word::Overheld),
            (win.unmoved, Word::Unmoved),
            (win.due(world.now), Word::Tick),
            (!win.window.form.runs_sql() && !win.word, Word::Close),
            (self.may_say(win, Word::Renew), Word::Renew),
            (self.may_say(win, Word::Abort), Word::Abort),
            (self.may_say(win, Word::OwnerGone), Word::OwnerGone),
            (self.may_say(win, Word::Shutdown), Word::Shutdown),
        ];
        moves.extend(words.into_iter().filter(|(can, _)| *can).map(|(_, word)| Do::Tell(ix, word)));
        if !self.plan.prompt && !win.closed() {
            moves.push(Do::Die(ix));
        }
    }

    /// A `PAUSE` has no owner, and only who opened a window by hand renews it; an abort is tried even when it is late.
    pub(crate) fn may_say(&self, win: &Win, word: Word) -> bool {
        let fits = match word {
            Word::Renew => win.window.form == Form::Open,
            Word::OwnerGone => win.window.form != Form::Pause,
            _ => true,
        };
        self.plan.words.contains(&word) && fits && (!win.closed() || word == Word::Abort)
    }

    pub(crate) fn tell(&self, world: &mut World, ix: usize, word: Word) -> Check {
        let now = world.now;
        let win = &mut world.wins[ix];
        let event = match word {
            Word::Passed | Word::Refused | Word::Present => {
                win.preflight = false;
                match word {
                    Word::Passed => Event::Passed,
                    Word::Refused => Event::Refused("no".into()),
                    _ => Event::Present("there".into()),
                }
            }
            Word::Recorded => {
                (win.record, win.recorded) = (false, true);
                Event::Recorded
            }
            Word::NotRecorded => {
                win.record = false;
                Event::NotRecorded("full".into())
            }
            Word::Drained => {
                win.drained = false;
                Event::Drained
            }
            Word::GateLost => {
                win.lost = false;
                Event::GateLost
            }
            Word::Healed => {
                win.heal = false;
                Event::Healed
            }
            Word::Verdict => Event::ApplyEnded(win.verdict.take().ok_or("no verdict")?),
            Word::Released => Event::Released,
            Word::Overheld => Event::Overheld,
            Word::Unmoved => {
                win.unmoved = false;
                Event::Unmoved
            }
            Word::Tick => Event::Tick,
            Word::Close => Event::Close,
            Word::Renew => Event::Renew,
            Word::Abort => Event::Abort,
            Word::OwnerGone => Event::OwnerGone,
            Word::Shutdown => Event::Shutdown,
        };
        let old = win.window.clone();
        let mut effects = Vec::new();
        win.window = step_with(self.mutant, old.clone(), event.clone(), now, &mut effects);
        if self.is(Mutant::StraggleAtOnce) && matches!(win.window.phase, Phase::Draining { .. }) && word == Word::Passed
        {
            effects.push(Effect::Straggle(win.window.bounds.stragglers));
        }
        if word == Word::Renew {
            win.spoke = now;
        }
        let counts = !matches!(old.phase, Phase::Closed { .. } | Phase::Releasing { .. });
        win.word |= word == Word::Close && counts && old.phase != win.window.phase;
        count(win, &effects);
        win.pending.extend(effects.iter().cloned());
        rules::told(self, world, ix, &rules::Told { old: &old, event: &event, effects: &effects })
    }

    pub(crate) fn perform(&self, world: &mut World, ix: usize) -> Check {
        let now = world.now;
        let mine = world.shut_by(&world.wins[ix]);
        let running = world.ledger.running();
        let Some(effect) = world.wins[ix].pending.pop_front() else {
            return Ok(());
        };
        match effect {
            Effect::Preflight => world.wins[ix].preflight = true,
            Effect::Record => world.wins[ix].record = true,
            Effect::Shut { bound } => self.shut(world, ix, bound),
            Effect::Straggle(policy) => {
                if mine || self.is(Mutant::StragglesAtLostGate) {
                    self.straggle(world, ix, policy)?;
                }
            }
            Effect::StartApply { deadline } => {
                let win = &mut world.wins[ix];
                if mine && now < deadline || self.is(Mutant::StartsAtLostGate) {
                    rules::ensure(mine && running == 0, "a change starts beside open transactions")?;
                    win.change = Change::Running;
                } else {
                    win.change = Change::Over;
                    win.verdict = Some(failed());
                    self.saw("a change did not start: too late");
                }
            }
            Effect::StopApply => {
                let win = &mut world.wins[ix];
                if win.change == Change::Running {
                    win.change = Change::Stopping;
                    if self.is(Mutant::StopMeansRolledBack) {
                        win.verdict = Some(failed());
                    }
                }
            }
            Effect::Heal => world.wins[ix].heal = true,
            Effect::Open => {
                let epoch = match self.mutant {
                    Mutant::StaleEpochOpens => world.gate_epoch(),
                    _ => world.wins[ix].epoch,
                };
                if !self.plan.old_timers {
                    world.wins[ix].watch = None;
                }
                if let Some(epoch) = epoch {
                    self.open(world, ix, epoch)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn shut(&self, world: &mut World, ix: usize, bound: Option<Moment>) {
        let now = world.now;
        let leaves_free = world.wins[ix].leaves_free;
        let told = leaves_free && !self.is(Mutant::FreeIsHeld) || self.is(Mutant::HeldIsFree);
        let Some(epoch) = world.ledger.shut(bound, now, |group| told && group == SECOND) else {
            // The window before has not let go of the gate: this one must not believe that the gate is its own.
            world.wins[ix].gone = true;
            world.wins[ix].lost = !self.is(Mutant::ShutRefusalIgnored);
            world.wins[ix].drained = self.is(Mutant::ShutRefusalIgnored);
            self.saw("the gate was shut already");
            return;
        };
        world.mirror = Mirror::default();
        for client in &mut world.clients {
            let free = leaves_free && client.group == SECOND;
            if matches!(client.at, At::Waiting(_)) {
                client.held = (!free).then_some(now);
                world.mirror.held += u64::from(!free);
                self.saw(if free {
                    "a waiter is left free by the shutting"
                } else {
                    "a waiter is held by the shutting"
                });
            }
        }
        let win = &mut world.wins[ix];
        win.epoch = Some(epoch);
        win.watch = bound;
        win.drained = world.ledger.running() == 0 && !self.is(Mutant::DrainedUnsaid) || self.is(Mutant::DrainedEarly);
    }

    pub(crate) fn open(&self, world: &mut World, by: usize, epoch: Epoch) -> Check {
        let before = world.ledger.clone();
        let own = world.gate_epoch() == Some(epoch);
        let mut grants = world.ledger.open(epoch, world.now);
        if !own {
            self.saw("a stale open");
            rules::ensure(grants.is_empty() && before == world.ledger, "a stale open has an effect")?;
        }
        rules::ensure(!own || world.wins[by].epoch == Some(epoch), "a window opens another one's gate")?;
        if own {
            for client in world.clients.iter_mut().filter(|client| client.held.is_some()) {
                client.clock = client.clock.max(world.now);
            }
        }
        if self.is(Mutant::GrantLost) && !grants.is_empty() {
            grants.remove(0);
        }
        if self.is(Mutant::GrantTwice) {
            let twice = grants.first().map(|grant| Grant { server: None, ..*grant });
            grants.extend(twice);
        }
        self.granted(world, grants)
    }

    pub(crate) fn watchdog(&self, world: &mut World, ix: usize) -> Check {
        let own = world.shut_by(&world.wins[ix]);
        let win = &mut world.wins[ix];
        win.watch = None;
        let Some(epoch) = win.epoch else {
            return Ok(());
        };
        if own {
            rules::ensure(!self.plan.prompt, "the watchdog had to open the gate of a prompt driver")?;
            (win.gone, win.lost) = (true, true);
            self.saw(if win.dead { "the watchdog outlived the driver" } else { "the watchdog opened the gate" });
        }
        self.open(world, ix, epoch)
    }

    /// Only `terminate` ends transactions by itself; after a cancel it is up to the client.
    pub(crate) fn straggle(&self, world: &mut World, ix: usize, policy: Stragglers) -> Check {
        let counts = |client: usize| !world.is_free(client) || self.is(Mutant::CutsTheFree);
        let running = |client: &usize| world.clients[*client].at == At::Running && counts(*client);
        let stragglers: Vec<usize> = (0..CLIENTS).filter(running).collect();
        // By class, the first client may be cut and no other; where one may not, nobody is.
        if policy == Stragglers::ByClass && stragglers.iter().any(|client| *client > 0) && !self.is(Mutant::CutsInVain)
        {
            world.wins[ix].unmoved = true;
            self.saw("stragglers are left that nobody may cut");
        } else if matches!(policy, Stragglers::Terminate | Stragglers::ByClass) {
            let others = stragglers.iter().any(|client| *client > 0);
            let allowed = match world.wins[ix].window.bounds.stragglers {
                Stragglers::Terminate => true,
                Stragglers::ByClass => !others,
                Stragglers::Abort | Stragglers::Cancel => false,
            };
            let mine = world.shut_by(&world.wins[ix]);
            for client in stragglers {
                let allowed = allowed && mine && !world.is_free(client);
                rules::ensure(allowed, "a client is cut that the plan does not cut")?;
                self.finish(world, client);
                self.drop_server(world, client);
                world.clients[client].at = At::Gone;
                self.saw("a straggler was cut");
            }
        }
        Ok(())
    }

    pub(crate) fn change_ends(&self, world: &mut World, ix: usize, committed: bool, verdict: Option<Verdict>) {
        let win = &mut world.wins[ix];
        if win.change == Change::Stopping && committed {
            self.saw("a commit won the race against its stop");
        }
        win.change = Change::Over;
        win.committed |= committed;
        // After a crash there is nobody to hear it.
        if win.crashed.is_none() {
            win.unhealed |= committed;
            win.verdict = verdict;
        }
    }

    pub(crate) fn crash(&self, world: &mut World) -> Check {
        world.crash();
        for win in world.wins.iter().filter(|win| win.crashed == Some(Crashed::Unknown)) {
            let harmless = win.asked.start == 0 && (win.asked.shut == 0 || win.window.form == Form::Pause);
            rules::ensure(harmless, "a window had an effect, and no record of it is there")?;
            self.saw("a crash before the record");
        }
        if world.wins.iter().any(|win| win.changing()) {
            self.saw("a change outlives its process");
        }
        Ok(())
    }

    /// The backend of the change is ended and waited for, then the database says whether it is committed.
    pub(crate) fn settle(&self, world: &mut World, ix: usize) {
        let win = &mut world.wins[ix];
        if win.changing() && !self.is(Mutant::BackendSpared) {
            win.change = Change::Over;
        }
        let applied = win.committed && !self.is(Mutant::SettledIsAborted);
        win.crashed = Some(Crashed::Settled { applied });
        self.saw(if applied { "recovered: applied" } else { "recovered: aborted" });
    }
}

/// Keeps count of what was asked for.
fn count(win: &mut Win, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Shut { .. } => win.asked.shut += 1,
            Effect::Open => win.asked.open += 1,
            Effect::StartApply { .. } => win.asked.start += 1,
            Effect::StopApply => win.asked.stop += 1,
            Effect::Heal => {
                win.asked.heal += 1;
                win.unhealed = false;
            }
            Effect::Preflight | Effect::Record | Effect::Straggle(_) => {}
        }
    }
}
