//! Who pays for what was adopted. It is not written down: everything of a session's is the session's to pay, whichever handle it
//! was made by.

use dma_types::Iova;

use crate::domain::DomainKey;
use crate::engine::Engine;
use crate::payer::{Payer, Turnover, bytes};
use crate::platform::TableFrames;

impl Engine {
    /// Puts a domain's table on an account, as of this client, unless it is on one already.
    pub fn put_table_on_account(
        &mut self,
        frames: &impl TableFrames,
        key: DomainKey,
        payer: Payer,
        client: Payer,
    ) {
        let Some(domain) = self.domains.get_mut(&key) else { return };
        if domain.client() != Payer::NOBODY {
            return;
        }
        domain.set_client(client);
        let taken = domain.frames(frames);
        domain.pay(&taken, payer);
        self.books
            .note(payer, Turnover { frames: bytes(taken.len() as u64), ..Turnover::default() });
    }

    /// Puts the addresses of a mapping on an account.
    pub fn put_mapping_on_account(&mut self, key: DomainKey, iova: Iova, payer: Payer) {
        let domain = self.domains.get_mut(&key);
        let Some(mapped) = domain.and_then(|it| it.put_on_account(iova, payer)) else { return };
        let iova_bytes = bytes(mapped);
        self.books.note(payer, Turnover { iova_bytes, ..Turnover::default() });
    }
}
