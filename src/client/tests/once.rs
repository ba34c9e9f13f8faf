//! Exactly once: what the client does when an answer does not come, or says that there was none.

use super::*;
use crate::base::{FenceToken, Sequence};

fn once() -> ClientOptions {
    ClientOptions { exactly_once: true, ..options() }
}

impl Served {
    /// Takes the wish for a session and grants this one.
    fn grant(&mut self, session: u64) {
        let got = self.next();
        assert!(matches!(got, Got::OpenSession { .. }), "{got:?}");
        let session = SessionId(session);
        self.answer(&Response::SessionOpened { request: got.id(), session });
    }
}

fn number_of(got: &Got) -> (u64, u64) {
    (got.name().session.0, got.name().sequence.0)
}

#[tokio::test]
async fn a_connection_that_breaks_under_an_append_has_it_sent_again_under_its_number() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.grant(40);
        let first = served.next();
        assert_eq!(number_of(&first), (40, 1));
        drop(served);
        let mut served = Served::welcome(&listener, &welcome);
        let again = served.next();
        assert_eq!(first.name(), again.name());
        served.answer(&again.appended(3));
        let next = served.next();
        assert_eq!((number_of(&next), next.name().unanswered), ((40, 2), 0));
        served.answer(&next.appended(4));
        // The client is done: it gives its session back.
        let got = served.next();
        assert!(matches!(got, Got::CloseSession { .. }), "{got:?}");
    });
    let client = Client::connect([address], once()).await.unwrap();
    assert_eq!(client.append(&["a"]).await.unwrap().first, Position(3));
    assert_eq!(client.append(&["b"]).await.unwrap().first, Position(4));
    drop(client);
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_leader_that_does_not_know_the_outcome_is_no_reason_not_to_know() {
    let (mut listeners, members) = nodes(2);
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let welcomes = (welcome_of(1, Some(1), &members), welcome_of(2, Some(2), &members));
    let deposed = std::thread::spawn(move || {
        let mut served = Served::welcome(&first, &welcomes.0);
        served.grant(7);
        let got = served.next();
        served.answer(&got.failed(ErrorCode::OutcomeUnknown, Some(2)));
        got.name()
    });
    let leader = std::thread::spawn(move || {
        let mut served = Served::welcome(&second, &welcomes.1);
        let got = served.next();
        served.answer(&got.appended(17));
        got.name()
    });
    let client = Client::connect([members[0].1.clone()], once()).await.unwrap();
    assert_eq!(client.append(&["a", "b"]).await.unwrap().first, Position(17));
    let names = tokio::task::spawn_blocking(move || (deposed.join(), leader.join())).await.unwrap();
    assert_eq!(names.0.unwrap(), names.1.unwrap());
}

#[tokio::test]
async fn appends_in_flight_keep_their_order_when_one_of_them_is_refused() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.grant(1);
        let first = served.next();
        // By now the client has handed in all three: the others come at once.
        let (second, third) = (served.next(), served.next());
        served.answer(&first.failed(ErrorCode::Overloaded, None));
        served.answer(&second.failed(ErrorCode::OutOfOrder, None));
        served.answer(&third.failed(ErrorCode::OutOfOrder, None));
        for (position, before) in (10..).zip([first, second, third]) {
            let again = served.next();
            assert_eq!(again.name(), before.name());
            served.answer(&again.appended(position));
        }
    });
    let client = Client::connect([address], once()).await.unwrap();
    let append = |record: &'static str| {
        let client = client.clone();
        async move { client.append(&[record]).await.unwrap().first.0 }
    };
    let positions = tokio::join!(append("a"), append("b"), append("c"));
    assert_eq!(positions, (10, 11, 12));
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn an_append_that_is_given_up_makes_way_for_the_next() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.grant(5);
        assert_eq!(number_of(&served.next()), (5, 1));
        // Never answered; the client gives up, and appends something else.
        let next = served.next();
        assert_eq!(number_of(&next), (5, 2));
        served.answer(&next.failed(ErrorCode::OutOfOrder, None));
        let void = served.next();
        assert_eq!(number_of(&void), (5, 1));
        let Got::Append { records, .. } = &void else { panic!("{void:?}") };
        assert!(records.is_empty(), "what was given up is not appended behind its caller's back");
        served.answer(&void.appended(0));
        let again = served.next();
        assert_eq!(again.name().sequence, Sequence(2));
        served.answer(&again.appended(0));
    });
    let short = ClientOptions { operation_timeout: Duration::from_millis(500), ..once() };
    let client = Client::connect([address], short).await.unwrap();
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown { .. }), "{error:?}");
    client.append(&["b"]).await.unwrap();
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn conditions_come_back_with_what_stood_in_the_way() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.grant(5);
        for (error, detail) in [(ErrorCode::TailMoved, 12), (ErrorCode::Fenced, 9)] {
            let request = served.next().id();
            let (leader, text) = (None, "why");
            served.answer(&Response::Failed { request, error, leader, detail, text });
        }
    });
    let client = Client::connect([address], once()).await.unwrap();
    let options = AppendOptions { if_tail: Some(Position(3)), fence: Some(FenceToken(2)) };
    let moved = AppendError::TailMoved { tail: Position(12) };
    assert_eq!(client.append_if(options, &["a"]).await, Err(moved));
    let fenced = AppendError::Fenced { token: FenceToken(9) };
    assert_eq!(client.append_if(options, &["a"]).await, Err(fenced));
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn an_expired_session_is_followed_by_another_for_what_is_certain() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.grant(1);
        let got = served.next();
        served.answer(&got.failed(ErrorCode::SessionExpired, None));
        served.grant(2);
        let got = served.next();
        assert_eq!(number_of(&got), (2, 1));
        drop(served);
        // It had been sent before, and nobody knows any more what became of it.
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        served.answer(&got.failed(ErrorCode::SessionExpired, None));
    });
    let client = Client::connect([address], once()).await.unwrap();
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown { .. }), "{error:?}");
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}
