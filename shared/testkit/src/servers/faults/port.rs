//! A port that can refuse connections and accept them again.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};

use super::{Shared, answer};
use crate::servers::host;

/// A port of 127.0.0.1 that stays ours while it does not listen: a second socket is bound to
/// it and does not listen.
pub(super) struct Port {
    address: SocketAddr,
    _reserved: TcpSocket,
}

impl Port {
    pub(super) fn reserve() -> Self {
        let reserved = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = reserved.local_addr().expect("the port's number");
        Self { address, _reserved: reserved }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections while it should listen, and says whether it listens.
    pub(super) async fn accept(&self, shared: &Arc<Shared>) {
        let mut should_listen = shared.should_listen.subscribe();
        loop {
            if *should_listen.borrow_and_update() {
                let listener = socket(self.address).listen(128).expect("a port to listen on");
                shared.open.send_replace(true);
                tokio::select! {
                    () = answer_all(&listener, shared) => {}
                    Ok(_) = should_listen.wait_for(|should| !should) => {}
                }
            } else {
                shared.open.send_replace(false);
                // Its sender is in `shared`, so that it cannot be gone.
                let _ = should_listen.wait_for(|should| *should).await;
            }
        }
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket that shares its port");
    socket.bind(address).expect("a free port");
    socket
}

async fn answer_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let answer = move |request| answer::answer(Arc::clone(&shared), request);
    host::accept(listener, false, answer).await;
}
