//! What was acknowledged survives a crash.

use anon_auth_tests::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Sign-ins before the crash, and in whose middle it comes; times `scale()`.
const SIGN_INS: usize = 2_000;
const CONNECTIONS: usize = 8;

#[test]
fn S6_every_acknowledged_session_survives_a_crash() {
    let server = Server::start(&[]);
    let db = Database::on(&server);
    let each = SIGN_INS * scale() / CONNECTIONS;
    let acknowledged = AtomicUsize::new(0);
    let sign_in_until_it_fails = |client: &mut postgres::Client, most: usize| {
        let mut sessions = Vec::new();
        while sessions.len() < most
            && let Ok(session) = try_sign_in(client)
        {
            sessions.push(session);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        sessions
    };
    let mut sessions: Vec<_> = db
        .at_once(CONNECTIONS, APP, |_, client| sign_in_until_it_fails(client, each))
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(sessions.len(), each * CONNECTIONS);

    // The last of them kills the server when half of the second lot is in.
    let killing = db.at_once(CONNECTIONS + 1, APP, |i, client| {
        if i < CONNECTIONS {
            return sign_in_until_it_fails(client, each);
        }
        let half = each * CONNECTIONS * 3 / 2;
        wait_until("half of them", Duration::from_secs(600), || acknowledged.load(Ordering::Relaxed) >= half);
        server.kill();
        Vec::new()
    });
    sessions.extend(killing.into_iter().flatten());
    assert!(sessions.len() < 2 * each * CONNECTIONS, "the server was killed too late");
    server.recover();

    let sessions = &sessions;
    let refreshed: usize = db
        .at_once(CONNECTIONS, APP, |i, client| {
            let mine = sessions.iter().skip(i).step_by(CONNECTIONS);
            mine.map(|session| {
                verify(client, &session.access_token).unwrap_or_else(|error| panic!("{}", describe(&error)));
                refresh(client, &session.refresh_token).unwrap_or_else(|error| panic!("{}", describe(&error)))
            })
            .count()
        })
        .iter()
        .sum();
    assert_eq!(refreshed, sessions.len());
}
