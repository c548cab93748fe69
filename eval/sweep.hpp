// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "eval/protocol.hpp"

namespace neoxref::eval {

/// tokens      ids, without a token put first.
/// bytes       of each token, for bits per byte; empty: there are none.
/// word_starts words (runs of bytes that are no ASCII white space) that begin in each token, for
///             perplexity per word; empty: there is none.
/// target      0, or the index of the first token that a task asks for (see windows()).
struct Text {
  std::string name;
  std::vector<std::int32_t> tokens;
  std::vector<std::uint32_t> bytes{};
  std::vector<std::uint32_t> word_starts{};
  std::size_t target = 0;
};

/// One press to run. A press that keeps all is the uncompressed run of its trigger and prune_after.
/// schedule  arms with the same number, other than 0, must have the same slots at every step.
struct Arm {
  std::string label;    ///< of the budget, for people: "0.9", "64 slots"
  engine::Press press;  ///< prune_after as it was asked for; the protocol may make it effective
  std::size_t schedule = 0;
  bool control = false;
};

/// The arms, each set of one schedule (all alike but in their score) followed by its controls: `seeds`
/// arms of `random`, as many of `random-fresh`, one of `recent` where no arm of the set is one.
/// Arms of schedule 0 get none.
std::vector<Arm> with_controls(std::span<const Arm> arms, std::size_t seeds);

/// One scored token. "Full" is the uncompressed run over the same tokens.
struct TokenScore {
  double kl = 0.0;   ///< of the next-token distribution, full to this; nats
  float nll = 0.0f;  ///< docs/contract.md, "nll of token t"
  float full_nll = 0.0f;
  std::uint32_t position = 0;   ///< in its window
  std::uint32_t cuts = 0;       ///< moments at which some layer was cut, before its logits
  std::uint32_t since_cut = 0;  ///< tokens entered since the last of them, 1 right after; 0: none
  std::int32_t token = 0;
  bool correct = false;  ///< the arg-max of the logits
  bool agrees = false;   ///< arg-max equal to that of the full run
};

/// One window of a text under one arm.
struct WindowScore {
  Window window{};
  Course course{};
  std::size_t first_token = 0;  ///< index in TextScore::scores
  std::size_t scored = 0;
  std::vector<engine::Cut> log{};      ///< every cut of every layer, in order
  std::vector<std::size_t> lengths{};  ///< per layer, slots at the end
};

/// One text under one arm. Bytes are those of one cache: keys and values of all layers and heads.
struct TextScore {
  std::string name;
  std::size_t tokens = 0;  ///< of the text that were used, tokens put first included
  std::size_t scored = 0;  ///< 0: too short, or nothing came after a first cut
  double nll = 0.0;        ///< sums over the scored tokens, in token order
  double full_nll = 0.0;
  double kl = 0.0;
  std::size_t correct = 0;
  std::size_t agreed = 0;
  std::size_t after_cut = 0;         ///< scored tokens whose logits came after a cut
  std::size_t before_first_cut = 0;  ///< tokens that entered before it in the first window; all of
                                     ///< them where nothing was cut
  std::size_t bytes = 0;             ///< of the scored tokens; 0: not known
  std::size_t words = 0;             ///< that begin in scored tokens
  std::vector<std::size_t> cuts{};   ///< per layer, over all windows
  std::size_t peak_slots = 0;        ///< most slots over all layers at one time
  double mean_slots = 0.0;           ///< per layer: slots that the logits of the scored tokens saw
  double mean_bytes = 0.0;           ///< logical bytes that these logits saw
  std::size_t peak_bytes = 0;        ///< logical
  std::size_t physical_bytes = 0;    ///< of the arena: address space
  double mean_resident_bytes = 0.0;  ///< pages of the arena in memory, sampled between chunks
  std::size_t peak_resident_bytes = 0;
  bool never_cut = false;  ///< compressed, and in some layer that is not skipped no score came
                           ///< after a cut
  double seconds = 0.0;    ///< forward passes and cuts while scored tokens were computed
  std::string digest;      ///< of the logits that scored, in order
  std::vector<WindowScore> windows{};
  std::vector<TokenScore> scores{};

  double log_ratio() const;  ///< mean of nll - full nll; NaN where nothing is scored
};

/// Ages at which one head dropped slots: tokens that had entered since.
struct DropAges {
  std::uint64_t dropped = 0;
  std::uint64_t sum = 0;
  std::uint64_t youngest = 0;
  std::uint64_t oldest = 0;
};

/// Who lives how long: which original positions are still held when the last token of a window is
/// scored, and how old slots were when they were dropped.
struct Survival {
  std::size_t layers = 0;
  std::size_t heads = 0;
  std::size_t positions = 0;             ///< most tokens that entered in any window
  std::vector<std::uint64_t> held{};     ///< [layers][positions]: (window, head) pairs that hold it
  std::vector<std::uint64_t> entered{};  ///< [positions]: (window, head) pairs where it had entered
  std::vector<std::uint64_t> held_by_age{};     ///< [layers][positions], age 0 entered last
  std::vector<std::uint64_t> dropped_by_age{};  ///< [layers][positions], over all cuts
  std::vector<DropAges> drops{};                ///< [layers][heads]
  double share(std::size_t layer, std::size_t position) const;
  double share_by_age(std::size_t layer, std::size_t age) const;
};

/// One arm over all texts: sums of TextScore, and what only a row has.
struct Row {
  Arm arm;
  bool compressed = false;
  std::size_t full_row = 0;  ///< index of the uncompressed row that scores the same tokens
  std::vector<TextScore> texts{};
  std::size_t tokens = 0;
  std::size_t scored = 0;
  double nll = 0.0;  ///< document sums, added in order
  double full_nll = 0.0;
  double kl = 0.0;
  std::size_t correct = 0;
  std::size_t agreed = 0;
  std::size_t after_cut = 0;
  std::size_t bytes = 0;
  std::size_t words = 0;
  std::vector<std::size_t> cuts{};
  double mean_slots = 0.0;
  double mean_bytes = 0.0;
  std::size_t peak_bytes = 0;
  std::size_t physical_bytes = 0;
  double mean_resident_bytes = 0.0;
  std::size_t peak_resident_bytes = 0;
  double seconds = 0.0;
  std::string digest;  ///< of the logits that scored tokens, in order
  Survival survival{};

  // NaN where nothing is scored.
  double perplexity() const;
  double full_perplexity() const;
  double log_ratio() const;
  /// Mean over documents of their perplexities.
  double document_perplexity() const;
  /// Texts whose scored tokens were all the arg-max: a task's accuracy.
  std::size_t items_correct() const;
  /// Cuts of a layer that left the protected slots because they were more than the budget.
  std::size_t protected_cuts() const;
};

/// What a text gave under every row, and all that is needed to go on behind it.
struct TextResult {
  std::vector<TextScore> rows;
  std::vector<std::string> digest_states;  ///< of the rows, see Digest::state
  std::vector<Survival> survival;          ///< of the rows, so far
};

struct SweepOptions {
  Layout layout{};                            ///< `bos` here is set by `first_token`
  std::optional<std::int32_t> first_token{};  ///< put before every window, never scored
  /// With the share done, from 0 to 1.
  std::function<void(double)> progress{};
  /// Results of the first texts, from an earlier run with the same model, texts and arms.
  std::vector<TextResult> done{};
  /// After each text that was computed here.
  std::function<void(std::size_t text, const TextResult& result)> text_done{};
};

/// One row for each arm, before it has run: for each trigger and prune_after among the arms, in their
/// order, the uncompressed row and then its arms (those that keep all are left out: they are that
/// row). Errors: Error for no arms.
std::vector<Row> make_rows(std::span<const Arm> arms);
/// Fills in a row's sums from its texts.
void add_up(Row& row);

/// What a sweep found: the rows of make_rows().
struct Sweep {
  Layout layout;
  std::vector<Row> rows;
};

/// Runs every arm over every text. A text is prefilled once and forked; between two cuts tokens go
/// through the model as one chunk. An own score that is a ScoreMaker is asked for the score of each
/// window when its press is set. Compressed and full logits meet token by token, and are not kept.
/// Errors: Error for tokens or settings that the model refuses, for values that are not finite, for a
/// run whose cuts are not those that plan() predicts, for arms of one schedule whose slots differ,
/// and when no text is long enough to be scored.
Sweep evaluate(engine::Model& model, std::span<const Text> texts, std::span<const Arm> arms,
               const SweepOptions& options);

}  // namespace neoxref::eval
