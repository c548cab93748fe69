// SPDX-License-Identifier: Apache-2.0
#include "simd/limits.hpp"

#include <stdexcept>

namespace neoxref::simd {

namespace scalar {
extern const Limits measured_limits;
}
#ifdef NEOXREF_HAVE_AVX2
namespace avx2 {
extern const Limits measured_limits;
}
#endif
#ifdef NEOXREF_HAVE_AVX512
namespace avx512 {
extern const Limits measured_limits;
}
#endif
#ifdef NEOXREF_HAVE_NEON
namespace neon {
extern const Limits measured_limits;
}
#endif

const Limits& limits(Isa isa) {
  // Refuses what was not built or cannot run.
  switch (kernels(isa).isa) {
    case Isa::scalar:
      return scalar::measured_limits;
#ifdef NEOXREF_HAVE_AVX2
    case Isa::avx2:
      return avx2::measured_limits;
#endif
#ifdef NEOXREF_HAVE_AVX512
    case Isa::avx512:
    case Isa::zen4:
      return avx512::measured_limits;
#endif
#ifdef NEOXREF_HAVE_NEON
    case Isa::neon:
      return neon::measured_limits;
#endif
    default:
      throw std::invalid_argument("instruction set without limits");
  }
}

}  // namespace neoxref::simd
