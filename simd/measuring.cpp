// SPDX-License-Identifier: Apache-2.0
#include "simd/measuring.hpp"

#include <stdexcept>

namespace neoxref::simd {

namespace scalar {
extern const Measuring measuring_products;
}
#ifdef NEOXREF_HAVE_AVX2
namespace avx2 {
extern const Measuring measuring_products;
}
#endif
#ifdef NEOXREF_HAVE_AVX512
namespace avx512 {
extern const Measuring measuring_products;
}
#endif
#ifdef NEOXREF_HAVE_NEON
namespace neon {
extern const Measuring measuring_products;
}
#endif

const Measuring& measuring(Isa isa) {
  // Refuses what was not built or cannot run.
  switch (kernels(isa).isa) {
    case Isa::scalar:
      return scalar::measuring_products;
#ifdef NEOXREF_HAVE_AVX2
    case Isa::avx2:
      return avx2::measuring_products;
#endif
#ifdef NEOXREF_HAVE_AVX512
    case Isa::avx512:
    case Isa::zen4:
      return avx512::measuring_products;
#endif
#ifdef NEOXREF_HAVE_NEON
    case Isa::neon:
      return neon::measuring_products;
#endif
    default:
      throw std::invalid_argument("instruction set without measuring products");
  }
}

}  // namespace neoxref::simd
