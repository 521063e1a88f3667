//! One key of a key-value store, as an object for the checker.

use super::{Specification, Step};
use bytes::{Bytes, BytesMut};

/// One key: absent, or a string of bytes, which some operations read as a decimal number.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyValue;

/// An operation on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyValueInput {
    /// Reads the value.
    Get,
    /// Writes the value, whatever was there.
    Set(Bytes),
    /// Writes the value if the key is absent.
    SetIfAbsent(Bytes),
    /// Writes the value if the key is present.
    SetIfPresent(Bytes),
    /// Removes the key.
    Delete,
    /// Adds one; an absent key counts as 0.
    Increment,
    /// Appends to the value; an absent key counts as empty.
    Append(Bytes),
}

/// An answer to a [`KeyValueInput`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyValueOutput {
    /// To `Get`: the value, `None` when absent.
    Value(Option<Bytes>),
    /// To `Set`, and to the conditional ones when the condition held.
    Done,
    /// To the conditional ones when the condition did not hold.
    ConditionFailed,
    /// To `Delete`: whether the key was present.
    Deleted(bool),
    /// To `Increment`: the number after it.
    Number(i64),
    /// To `Increment`: the value is no number, or cannot grow; nothing changed.
    NotANumber,
    /// To `Append`: the length after it, in bytes.
    Length(usize),
}

impl Specification for KeyValue {
    type State = Option<Bytes>;
    type Input = KeyValueInput;
    type Output = KeyValueOutput;

    fn initial(&self) -> Option<Bytes> {
        None
    }

    fn step(
        &self,
        state: &Option<Bytes>,
        input: &KeyValueInput,
        output: Option<&KeyValueOutput>,
    ) -> Step<Option<Bytes>> {
        let (answer, after) = match input {
            KeyValueInput::Get => match output {
                Some(KeyValueOutput::Value(seen)) if seen != state => return Step::Impossible,
                None | Some(KeyValueOutput::Value(_)) => return Step::Unchanged,
                Some(_) => return Step::Impossible,
            },
            KeyValueInput::Set(value) => (KeyValueOutput::Done, Some(value.clone())),
            KeyValueInput::SetIfAbsent(value) => conditional(state.is_none(), value),
            KeyValueInput::SetIfPresent(value) => conditional(state.is_some(), value),
            KeyValueInput::Delete if state.is_none() => (KeyValueOutput::Deleted(false), None),
            KeyValueInput::Delete => return change(KeyValueOutput::Deleted(true), output, || None),
            KeyValueInput::Increment => match number(state).and_then(|number| number.checked_add(1)) {
                Some(sum) => (KeyValueOutput::Number(sum), Some(decimal(sum))),
                None => (KeyValueOutput::NotANumber, None),
            },
            KeyValueInput::Append(suffix) => {
                let before = state.as_deref().unwrap_or_default();
                let answer = KeyValueOutput::Length(before.len() + suffix.len());
                return change(answer, output, || Some(concatenation(before, suffix)));
            }
        };
        match after {
            Some(after) => change(answer, output, || Some(after)),
            None if output.is_none_or(|seen| *seen == answer) => Step::Unchanged,
            None => Step::Impossible,
        }
    }

    fn only_state_before(&self, input: &KeyValueInput, output: &KeyValueOutput) -> Option<Option<Bytes>> {
        match (input, output) {
            (KeyValueInput::Get, KeyValueOutput::Value(seen)) => Some(seen.clone()),
            (KeyValueInput::Delete, KeyValueOutput::Deleted(false))
            | (KeyValueInput::SetIfAbsent(_), KeyValueOutput::Done)
            | (KeyValueInput::SetIfPresent(_), KeyValueOutput::ConditionFailed) => Some(None),
            // 1 follows an absent key as well as a 0.
            (KeyValueInput::Increment, KeyValueOutput::Number(sum)) if *sum != 1 => {
                sum.checked_sub(1).map(|before| Some(decimal(before)))
            }
            _ => None,
        }
    }

    fn may_lead_to(&self, after: &Option<Bytes>, input: &KeyValueInput, output: Option<&KeyValueOutput>) -> bool {
        let Some(after) = after else { return *input == KeyValueInput::Delete };
        match (input, output) {
            (KeyValueInput::Get | KeyValueInput::Delete, _) => false,
            (KeyValueInput::Increment, Some(KeyValueOutput::Number(sum))) => decimal(*sum) == *after,
            (KeyValueInput::Append(_), Some(KeyValueOutput::Length(length))) if *length != after.len() => false,
            (KeyValueInput::Append(suffix), _) => after.ends_with(suffix),
            (KeyValueInput::Increment, None) => number_of(after).is_some(),
            (_, Some(KeyValueOutput::ConditionFailed | KeyValueOutput::NotANumber)) => false,
            (KeyValueInput::Set(value) | KeyValueInput::SetIfAbsent(value) | KeyValueInput::SetIfPresent(value), _) => {
                value == after
            }
            (KeyValueInput::Increment, Some(_)) => false,
        }
    }
}

fn decimal(number: i64) -> Bytes {
    Bytes::from(std::format!("{number}"))
}

/// The step of an operation that writes, if `answer` is what was seen.
fn change(
    answer: KeyValueOutput,
    seen: Option<&KeyValueOutput>,
    after: impl FnOnce() -> Option<Bytes>,
) -> Step<Option<Bytes>> {
    if seen.is_none_or(|seen| *seen == answer) { Step::Changed(after()) } else { Step::Impossible }
}

/// The answer of a conditional write, and what it writes.
fn conditional(holds: bool, value: &Bytes) -> (KeyValueOutput, Option<Bytes>) {
    if holds { (KeyValueOutput::Done, Some(value.clone())) } else { (KeyValueOutput::ConditionFailed, None) }
}

fn concatenation(before: &[u8], suffix: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(before.len() + suffix.len());
    value.extend_from_slice(before);
    value.extend_from_slice(suffix);
    value.freeze()
}

/// The state as a number; an absent key counts as 0.
fn number(state: &Option<Bytes>) -> Option<i64> {
    state.as_ref().map_or(Some(0), number_of)
}

/// The value as a number, with the rule of Redis: decimal, no sign but a minus, no leading zeros.
fn number_of(value: &Bytes) -> Option<i64> {
    let text = core::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (std::format!("{number}") == text).then_some(number)
}
