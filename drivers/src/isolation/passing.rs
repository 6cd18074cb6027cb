//! Sockets that go from process to process, with one byte of a Unix socket each time (`SCM_RIGHTS`, unix(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Most sockets that go at once; the kernel takes 253.
pub(super) const MAX_SOCKETS: usize = 64;

/// Sends sockets; the kernel keeps them until they are taken. Never waits.
pub(super) fn send(control: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many sockets at once"));
    }
    sendmsg(control, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Waits for the next sockets; none at the end of the stream.
pub(super) fn receive(control: &UnixStream) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok(Some(sockets))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn sockets_arrive_together_and_work() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pairs: Vec<_> = (0..MAX_SOCKETS).map(|_| UnixStream::pair().unwrap()).collect();
        let (mut near, far): (Vec<UnixStream>, Vec<OwnedFd>) =
            pairs.into_iter().map(|(near, far)| (near, OwnedFd::from(far))).unzip();
        send(&ours, &far).unwrap();
        drop((ours, far));
        let got = receive(&theirs).unwrap().unwrap();
        assert_eq!(got.len(), MAX_SOCKETS);
        let mut last = UnixStream::from(got.into_iter().next_back().unwrap());
        last.write_all(b"x").unwrap();
        let mut byte = [0];
        near.pop().unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        assert!(receive(&theirs).unwrap().is_none());
    }
}
