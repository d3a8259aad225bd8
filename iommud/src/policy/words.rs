//! What can be said in a policy.

use std::time::Duration;

use iommu_engine::policy::{
    ClientRule, Devices, IgnoredUnit, Invalidation, Orphans, Policy, QuarantineAfter,
    QuarantineRule, Quotas, Rule, SaidQuotas, Unopened, WithoutIommu,
};
use serde::de::{Deserialize, Deserializer, Error};

use super::value::{Count, DevicesWord, Faults, Reserved, Size, Wait, ignored_units};

/// The file.
#[derive(Default, serde::Deserialize)]
#[serde(rename = "Policy", default, deny_unknown_fields)]
pub(super) struct PolicyWords {
    #[serde(with = "UnopenedWord")]
    default: Unopened,
    #[serde(with = "InvalidationWord")]
    invalidation: Invalidation,
    quotas: QuotaWords,
    client_quotas: QuotaWords,
    clients: Vec<ClientWords>,
    #[serde(deserialize_with = "said")]
    reserve: Option<Reserved>,
    #[serde(deserialize_with = "said")]
    quarantine: Option<QuarantineWord>,
    rules: Vec<RuleWords>,
    #[serde(deserialize_with = "ignored_units")]
    ignore_units: Vec<IgnoredUnit>,
    #[serde(with = "WithoutIommuWord")]
    without_iommu: WithoutIommu,
    #[serde(deserialize_with = "said")]
    orphans: Option<Wait>,
}

#[derive(serde::Deserialize)]
#[serde(remote = "Unopened", rename_all = "lowercase")]
enum UnopenedWord {
    Deny,
    Identity,
}

#[derive(serde::Deserialize)]
#[serde(remote = "Invalidation", rename_all = "lowercase")]
enum InvalidationWord {
    Strict,
    Deferred,
}

#[derive(serde::Deserialize)]
#[serde(remote = "WithoutIommu", rename_all = "lowercase")]
enum WithoutIommuWord {
    Refuse,
    Unprotected,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename = "Quotas", default, deny_unknown_fields)]
struct QuotaWords {
    #[serde(deserialize_with = "said")]
    buffers: Option<Count>,
    #[serde(deserialize_with = "said")]
    buffer_bytes: Option<Size>,
    #[serde(deserialize_with = "said")]
    mapped_bytes: Option<Size>,
    #[serde(deserialize_with = "said")]
    iova_bytes: Option<Size>,
    #[serde(deserialize_with = "said")]
    mappings: Option<Count>,
    #[serde(deserialize_with = "said")]
    page_table_bytes: Option<Size>,
    #[serde(deserialize_with = "said")]
    requests: Option<Count>,
    #[serde(deserialize_with = "said")]
    operations: Option<Count>,
}

/// A rule for a user.
#[derive(serde::Deserialize)]
#[serde(rename = "Client", deny_unknown_fields)]
struct ClientWords {
    uid: u32,
    quotas: QuotaWords,
}

impl From<ClientWords> for ClientRule {
    fn from(ClientWords { uid, quotas }: ClientWords) -> Self {
        Self { uid, quotas: quotas.into() }
    }
}

/// `(faults: 32, within: "1 s")`, or `(faults: 0)` for never.
struct QuarantineWord(QuarantineRule);

#[derive(serde::Deserialize)]
#[serde(rename = "Quarantine", deny_unknown_fields)]
struct QuarantineWords {
    faults: Faults,
    #[serde(default, deserialize_with = "said")]
    within: Option<Wait>,
}

impl<'de> Deserialize<'de> for QuarantineWord {
    fn deserialize<D: Deserializer<'de>>(words: D) -> Result<Self, D::Error> {
        let QuarantineWords { faults: Faults(faults), within } =
            QuarantineWords::deserialize(words)?;
        let within = within.map_or(Duration::from_secs(1), |within| within.0);
        Ok(Self(match faults {
            0 => QuarantineRule::Never,
            faults => QuarantineRule::After(QuarantineAfter { faults, within }),
        }))
    }
}

impl QuarantineWord {
    fn after(&self) -> Option<QuarantineAfter> {
        match self.0 {
            QuarantineRule::Never => None,
            QuarantineRule::After(after) => Some(after),
        }
    }
}

/// A rule before it is known to say something.
#[derive(serde::Deserialize)]
#[serde(rename = "Rule", deny_unknown_fields)]
struct RawRule {
    device: DevicesWord,
    #[serde(default, deserialize_with = "unopened")]
    default: Option<Unopened>,
    #[serde(default, deserialize_with = "invalidation")]
    invalidation: Option<Invalidation>,
    #[serde(default)]
    quotas: QuotaWords,
    #[serde(default, deserialize_with = "said")]
    reserve: Option<Reserved>,
    #[serde(default, deserialize_with = "said")]
    quarantine: Option<QuarantineWord>,
}

struct RuleWords(Rule);

impl<'de> Deserialize<'de> for RuleWords {
    fn deserialize<D: Deserializer<'de>>(words: D) -> Result<Self, D::Error> {
        let RawRule {
            device: DevicesWord(devices),
            default,
            invalidation,
            quotas,
            reserve,
            quarantine,
        } = RawRule::deserialize(words)?;
        let rule = Rule {
            devices,
            unopened: default,
            invalidation,
            quotas: quotas.into(),
            reserve: reserve.map(|size| size.0),
            quarantine: quarantine.map(|word| word.0),
        };
        if rule == Rule::new(devices) {
            return Err(says_nothing(devices));
        }
        Ok(Self(rule))
    }
}

fn says_nothing<E: Error>(devices: Devices) -> E {
    E::custom(format_args!(
        "the rule for {devices} says nothing: it has `default`, `invalidation`, `quotas`, `reserve` or `quarantine`"
    ))
}

/// A word that was said. The one that was not is `None` by default, and is never written so.
fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(word: D) -> Result<Option<T>, D::Error> {
    T::deserialize(word).map(Some)
}

fn unopened<'de, D: Deserializer<'de>>(word: D) -> Result<Option<Unopened>, D::Error> {
    UnopenedWord::deserialize(word).map(Some)
}

fn invalidation<'de, D: Deserializer<'de>>(word: D) -> Result<Option<Invalidation>, D::Error> {
    InvalidationWord::deserialize(word).map(Some)
}

impl From<PolicyWords> for Policy {
    fn from(words: PolicyWords) -> Self {
        let PolicyWords {
            default,
            invalidation,
            quotas,
            client_quotas,
            clients,
            reserve,
            quarantine,
            rules,
            ignore_units,
            without_iommu,
            orphans,
        } = words;
        Self {
            default,
            invalidation,
            quotas: SaidQuotas::from(quotas).over(Quotas::default()),
            client_quotas: SaidQuotas::from(client_quotas).over(Quotas::UNLIMITED),
            clients: clients.into_iter().map(Into::into).collect(),
            reserve: reserve.map_or(0, |size| size.0),
            quarantine: quarantine.and_then(|word| word.after()),
            rules: rules.into_iter().map(|rule| rule.0).collect(),
            ignored_units: ignore_units,
            without_iommu,
            orphans: orphans.map_or_else(Orphans::default, |wait| Orphans(wait.0)),
        }
    }
}

impl From<QuotaWords> for SaidQuotas {
    fn from(words: QuotaWords) -> Self {
        let count = |word: Option<Count>| word.map(|Count(count)| count);
        let size = |word: Option<Size>| word.map(|Size(size)| size);
        Self {
            buffers: count(words.buffers),
            buffer_bytes: size(words.buffer_bytes),
            mapped_bytes: size(words.mapped_bytes),
            iova_bytes: size(words.iova_bytes),
            mappings: count(words.mappings),
            page_table_bytes: size(words.page_table_bytes),
            requests: count(words.requests),
            operations: count(words.operations),
        }
    }
}
