//! Framing through a real transport: how a stream is cut into pieces on its way changes nothing of what is read.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::yield_now;

use super::*;
use crate::net::Plain;
use crate::wire::{HEADER, frontend};

/// Messages read up to an error or the end: type and body of each, then the error, then what is left unread.
#[derive(Debug, PartialEq)]
struct Read {
    messages: Vec<(u8, Vec<u8>)>,
    end: String,
    left: Vec<u8>,
}

/// What is read of `stream` when it arrives in pieces of these sizes (one piece if there are none).
fn read(stream: &[u8], sizes: &[usize]) -> Read {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let write = async {
            let mut rest = stream;
            let mut sizes = sizes.iter().copied().cycle();
            while !rest.is_empty() {
                let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
                peer.write_all(&rest[..size]).await.unwrap();
                rest = &rest[size..];
                // The reader has its turn between two pieces.
                yield_now().await;
                yield_now().await;
            }
            drop(peer);
        };
        let read = async {
            let mut socket = Socket::new(Io::Plain(Plain::Unix(ours)));
            let mut messages = Vec::new();
            loop {
                match socket.message(frontend::limit).await {
                    Ok(header) => {
                        messages.push((header.tag, socket.unseen()[HEADER..header.total].to_vec()));
                        socket.consume(header.total);
                    }
                    Err(error) => {
                        // It may come before all has arrived.
                        while socket.fill_to(socket.unseen().len() + 1).await.is_ok() {}
                        let left = socket.unseen().to_vec();
                        return Read { messages, end: format!("{error:?}"), left };
                    }
                }
            }
        };
        tokio::join!(write, read).1
    })
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

/// Bytes of any kind, in which a whole message is not as rare as chance would have it.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let whole = (any::<u8>(), body()).prop_map(|(tag, body)| message(tag, &body));
    let any_length = (any::<u8>(), 0..400_u32, body())
        .prop_map(|(tag, length, body)| [&[tag][..], &length.to_be_bytes(), &body].concat());
    prop_oneof![6 => whole, 1 => any_length, 1 => vec(any::<u8>(), 0..20)]
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        messages in vec((prop::sample::select(b"QPBdSHX".to_vec()), body()), 1..20),
        sizes in vec(1..400_usize, 0..10),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
        let got = read(&stream, &sizes);
        prop_assert_eq!(got, Read { messages, end: "Kind(UnexpectedEof)".into(), left: Vec::new() });
    }

    #[test]
    fn any_split_of_any_bytes_gives_the_same_messages_and_the_same_error(
        parts in vec(bytes(), 0..12),
        sizes in vec(1..100_usize, 1..10),
    ) {
        let stream = parts.concat();
        let (whole, split) = (read(&stream, &[]), read(&stream, &sizes));
        let seen = whole.messages.iter().map(|(_, body)| HEADER + body.len()).sum::<usize>();
        prop_assert_eq!(&stream[seen..], &whole.left[..], "nothing is lost");
        prop_assert_eq!(whole, split);
    }
}
