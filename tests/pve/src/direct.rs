//! Calls without a connection, for tests that make thousands: the same order from the route on.

use serde_json::Value as Json;

use crate::Double;
use crate::api::{self, Answer};
use crate::form;
use crate::table::Raw;

/// What a call answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// The status; 0 for no answer.
    pub status: u16,
    /// The reason.
    pub reason: String,
    /// The body.
    pub body: Json,
}

impl Double {
    /// Makes a call as the token (`user@realm!name=secret`), without the wire: no upload, no limits of
    /// bodies. `path` may carry a query.
    pub fn ask(&self, token: &str, method: &str, path: &str, params: Raw) -> Direct {
        let mut world = self.shared.world();
        let header = format!("PVEAPIToken={token}");
        let caller = match world.access.authenticate(Some(&header)) {
            Ok(caller) => caller,
            Err(reason) => {
                return Direct { status: 401, reason: reason.to_owned(), body: Json::Null };
            }
        };
        let answer = match api::split_target(&format!("/api2/json{path}")) {
            Err(response) => Answer::Send(response),
            Ok(target) => match api::route(method, target) {
                Ok(routed) => world.answer(&routed, &caller, params),
                Err(path) => Answer::Send(world.unknown(method, &path)),
            },
        };
        match answer {
            Answer::Close => Direct { status: 0, reason: String::new(), body: Json::Null },
            Answer::Send(response) => Direct {
                status: response.status,
                reason: response.reason,
                body: serde_json::from_slice(&response.body).unwrap_or(Json::Null),
            },
        }
    }
}

/// Parameters out of JSON, as the server reads them.
pub fn raw_params(json: &Json) -> Raw {
    let mut raw = Raw::new();
    drop(form::json(&json.to_string(), &mut raw));
    raw
}
