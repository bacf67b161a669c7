//! A client's state, into words for another process, and out of them.

use std::sync::Arc;

use bytes::Bytes;

use super::State;
use crate::pool::database::Pool;
use crate::prepared::catalog::Catalog;
use crate::prepared::names::Unnamed;
use crate::server::parameters::Parameters;
use crate::server::residue::{self, Settings};
use crate::session::asked::Asked;
use crate::session::passport::{Left, Luggage, Octets, Pairs, Prepared};

impl State {
    /// What of it goes along to another process; `None` while something of it is on its way, or on a server.
    pub(in crate::session) fn pack(&self) -> Option<Luggage> {
        if self.is_unsettled() || self.resetting || self.wiping {
            return None;
        }
        let settings = |settings: &Settings| pairs(settings.iter().map(|(name, value)| (name, value)));
        let named = self.names.settled()?.into_iter().map(|bound| Prepared {
            name: Octets::from(&*bound.name),
            body: Octets::from(bound.statement.body()),
            leaves: Left::default(),
            told: bound.told(),
        });
        let unnamed = self.names.unnamed.as_ref().map(|unnamed| Prepared {
            name: Octets::default(),
            body: Octets::from(&*unnamed.body),
            leaves: Left::from(&unnamed.leaves),
            told: unnamed.told,
        });
        Some(Luggage {
            wanted: pairs(self.wanted.iter()),
            home: pairs(self.home.iter()),
            settings: self.settings.as_deref().map(settings),
            first: self.first.as_deref().map(settings),
            hidden: Left::from(&self.hidden),
            asks_sequences: self.asks_sequences,
            statements: named.chain(unnamed).collect(),
        })
    }

    /// The state of a client that comes from another process. `None`: there is no room for its statements.
    pub(in crate::session) fn unpack(catalog: Arc<Catalog>, pool: &Pool, luggage: Luggage) -> Option<Self> {
        let others = |pairs: Option<Pairs>| pairs.map(|pairs| Arc::new(Settings::new(bytes(pairs))));
        let at_home = luggage.wanted == luggage.home;
        let asked = Asked { tracked: reported(luggage.home), others: others(luggage.first) };
        let mut state = Self::new(catalog, pool, asked);
        if !at_home {
            state.wanted = pool.shared(reported(luggage.wanted));
        }
        state.settings = others(luggage.settings);
        state.hidden = luggage.hidden.into();
        state.asks_sequences = luggage.asks_sequences;
        let reading = residue::reading(&state.wanted, state.settings.as_deref());
        for Prepared { name, body, leaves, told } in luggage.statements {
            if name.0.is_empty() {
                state.names.version += 1;
                state.names.unnamed = Some(Unnamed { body: body.0.as_ref().into(), leaves: leaves.into(), told });
            } else {
                state.names.restore(&name.0, state.catalog.intern(&body.0, reading)?, told);
            }
        }
        Some(state)
    }
}

fn pairs<'a>(all: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Pairs {
    all.map(|(name, value)| (Octets(name.clone()), Octets(value.clone()))).collect()
}

fn bytes(pairs: Pairs) -> impl Iterator<Item = (Bytes, Bytes)> {
    pairs.into_iter().map(|(name, value)| (name.0, value.0))
}

fn reported(pairs: Pairs) -> Parameters {
    let mut parameters = Parameters::default();
    bytes(pairs).for_each(|(name, value)| parameters.set(&name, &value));
    parameters
}
