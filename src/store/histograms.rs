//! Histograms as one compressed blob: entries of a tag, a length and HdrHistogram's own V2 deflate form,
//! which any HdrHistogram library reads. Pure.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::measurement::{Histograms, OutcomeClass};

/// First byte: the layout below.
const LAYOUT: u8 = 1;
const TAG_LATENCY: u8 = 0;
const TAG_SERVICE: u8 = 1;
/// Tags of the classes begin here, in the order of [`OutcomeClass::ALL`].
const TAG_CLASSES: u8 = 2;
/// Tag and little-endian length.
const ENTRY_HEAD: usize = 5;

/// The blob of `h`.
pub(super) fn encode(h: &Histograms) -> Result<Vec<u8>, String> {
    let mut out = vec![LAYOUT];
    let mut serializer = V2DeflateSerializer::new();
    let mut put = |tag: u8, h: &Histogram<u64>| -> Result<(), String> {
        let mut bytes = Vec::new();
        serializer.serialize(h, &mut bytes).map_err(|e| e.to_string())?;
        let length = u32::try_from(bytes.len()).map_err(|e| e.to_string())?;
        out.push(tag);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&bytes);
        Ok(())
    };
    put(TAG_LATENCY, &h.latency)?;
    put(TAG_SERVICE, &h.service)?;
    for (tag, class) in (TAG_CLASSES..).zip(OutcomeClass::ALL) {
        if let Some(h) = h.by_class.get(&class) {
            put(tag, h)?;
        }
    }
    Ok(out)
}

/// The histograms of `blob`; the error says what is wrong with it.
pub(super) fn decode(blob: &[u8]) -> Result<Histograms, String> {
    let Some((&LAYOUT, mut rest)) = blob.split_first() else {
        return Err("unknown layout of histograms".to_owned());
    };
    let mut found: BTreeMap<u8, Histogram<u64>> = BTreeMap::new();
    let mut deserializer = Deserializer::new();
    // Every turn takes at least ENTRY_HEAD bytes off `rest`.
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(ENTRY_HEAD).ok_or("cut off")?;
        let &[tag, a, b, c, d] = head else {
            return Err("cut off".to_owned());
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let (mut bytes, tail) = tail.split_at_checked(length).ok_or("cut off")?;
        let h = deserializer
            .deserialize(&mut bytes)
            .map_err(|e| format!("{e:?}"))?;
        found.insert(tag, h);
        rest = tail;
    }
    let mut take = |tag: u8| found.remove(&tag);
    Ok(Histograms {
        latency: take(TAG_LATENCY).ok_or("no latency histogram")?,
        service: take(TAG_SERVICE).ok_or("no service histogram")?,
        by_class: (TAG_CLASSES..)
            .zip(OutcomeClass::ALL)
            .filter_map(|(tag, class)| Some((class, take(tag)?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut h = Histogram::new_with_bounds(1, 120_000_000, 3).unwrap();
        for v in values {
            h.record(*v).unwrap();
        }
        h
    }

    proptest! {
        /// Breaks when a class is given another's tag, or a count is lost.
        #[test]
        fn blobs_give_back_what_was_put_in(
            a in prop::collection::vec(1_u64..60_000_000, 0..200),
            b in prop::collection::vec(1_u64..60_000_000, 0..200),
            class in 1_usize..OutcomeClass::ALL.len(),
        ) {
            let h = Histograms {
                latency: histogram(&a),
                service: histogram(&b),
                by_class: BTreeMap::from([(OutcomeClass::ALL[class], histogram(&b))]),
            };
            prop_assert_eq!(decode(&encode(&h).unwrap()).unwrap(), h);
        }

        /// Breaks when a damaged blob panics or reads past its end.
        #[test]
        fn damaged_blobs_are_errors(cut in 0_usize..60, flip in any::<u8>()) {
            let mut blob = encode(&Histograms {
                latency: histogram(&[1, 2, 3]),
                service: histogram(&[4]),
                by_class: BTreeMap::new(),
            }).unwrap();
            blob.truncate(cut);
            prop_assert!(decode(&blob).is_err());
            if let Some(b) = blob.get_mut(2) { *b = flip; }
            let _ = decode(&blob);
        }
    }
}
