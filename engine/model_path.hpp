// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace neoxref::engine {

/// The folder that a MODEL argument means. In this order:
/// - "mini", the embedded default: the folder of that name in NEOXREF_DATA_DIR when that
/// environment
///   variable is set, else where the project was installed, else in the sources it was built from;
/// - a folder ("./mini" for one that has that name);
/// - a Hub name "organisation/name", optionally "@revision" (a branch, a tag or a full commit hash;
///   "main" otherwise), in the local Hub cache: HF_HUB_CACHE, HF_HOME/hub,
///   XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub, the first that is set. Nothing is
///   ever downloaded.
/// The folder is not opened.
/// Errors: Error saying where it was looked for, and for a Hub name how to download it.
std::filesystem::path resolve_model(std::string_view model);

}  // namespace neoxref::engine
