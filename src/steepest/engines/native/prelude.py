"""The parts of a kernel's C++ text that are the same for every rule, and what its variables cannot be called."""

from __future__ import annotations

from steepest.engines.native.program import MATHEMATICS

KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const
consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete do
double dynamic_cast else enum explicit export extern false float for friend goto if inline int linux long
mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template
this thread_local throw true try typedef typeid typename union unix unsigned using virtual void volatile
wchar_t while xor xor_eq
"""
OWN = "ahead block cut end from i number philox piece run seed t to widen uniform normal rademacher"
RESERVED = {*KEYWORDS.split(), *OWN.split(), *MATHEMATICS, *(f"{name}f" for name in MATHEMATICS)}

VECTOR_MATH = """
#ifdef VECTOR_MATH
#define VECTOR _Pragma("omp declare simd notinbranch")
#else
#define VECTOR
#endif"""

ENTRY = """\
// Where a share of all elements, counted through all pieces, begins or ends in one piece: at whole blocks, and so
// at whole cache lines.
static int64_t cut(int64_t at, int64_t size) {
  at = (at + BLOCK - 1) / BLOCK * BLOCK;
  return at < 0 ? 0 : at < size ? at : size;
}

extern "C" void run(int64_t pieces, const int64_t *sizes, const uint32_t *index, void *const *tensors,
                    const double *number, uint32_t seed, uint32_t t, int threads) {
  int64_t all = 0;
  for (int64_t p = 0; p < pieces; ++p) all += sizes[p];
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int share = 0; share < threads; ++share) {
    const int64_t begin = all / threads * share, end = share + 1 < threads ? all / threads * (share + 1) : all;
    int64_t before = 0;
    for (int64_t p = 0; p < pieces; before += sizes[p++]) {
      const int64_t from = cut(begin - before, sizes[p]), to = cut(end - before, sizes[p]);
      if (from < to)
        KERNEL(
            POINTERS,
            number, from, toDRAWS);
    }
  }
}
"""


def typed(text: str) -> str:
    """The text for float and for double."""
    return "".join(text.replace("(T)", f"({t})").replace("T ", f"{t} ").replace("F(", f"{f}(")
                   for t, f in (("float", "f"), ("double", "")))  # fmt: skip


HELPERS: dict[tuple[str, ...], str] = {
    ("ahead",): """
// A block's cache lines 2 KiB ahead: a processor's own prefetch stops at the end of each page.
template <int write, typename E> static inline void ahead(const E *at) {
  for (int line = 0; line < (int)sizeof(E); ++line)
    __builtin_prefetch((const char *)at + 2048 + 64 * line, write);
}
""",
    ("bfloat16", "to_bfloat16"): """
typedef uint16_t bfloat16;
static inline float widen(bfloat16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, 4);
  return wide;
}
// To the nearest, of two the even one; a nan stays one.
static inline bfloat16 to_bfloat16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
""",
    ("float16", "to_float16"): """
typedef _Float16 float16;
static inline float widen(float16 x) { return x; }
static inline float16 to_float16(float x) { return x; }
""",
    ("remainder_of",): typed("""
static inline T remainder_of(T a, T b) {
  const T rest = __builtin_fmodF(a, b);
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
"""),
    ("floor_of",): typed("""
static inline T floor_of(T a, T b) {
  const T rest = __builtin_fmodF(a, b);
  if (b == 0) return a / b;
  T ratio = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) ratio -= 1;
  if (ratio == 0) return __builtin_copysignF((T)0, a / b);
  const T down = __builtin_floorF(ratio);
  return ratio - down > (T)0.5 ? down + 1 : down;
}
"""),
    ("power_of",): typed("""
static inline T power_of(T x, T power) {
  return power == 2 ? x * x : power == (T)0.5 ? __builtin_sqrtF(x) : power == 1 ? x : power == 0 ? (T)1
       : power == 3 ? x * x * x : power == -1 ? 1 / x : power == (T)-0.5 ? 1 / __builtin_sqrtF(x)
       : power == -2 ? 1 / (x * x) : powF(x, power);
}
"""),
    ("logaddexp_of",): typed("""
static inline T logaddexp_of(T a, T b) {
  if (a == b && __builtin_isinf(a)) return a;
  const T high = a > b ? a : b, far = a > b ? b - a : a - b;
  return high + log1pF(expF(far));
}
"""),
    ("philox",): """
struct Words { uint32_t a, b; };
// Philox4x32-10 (Salmon et al., SC 2011): the first two words for an element.
static inline Words philox(uint64_t element, uint32_t c, uint32_t d, uint32_t k, uint32_t l) {
  uint32_t a = (uint32_t)element, b = (uint32_t)(element >> 32);
  for (int round = 0; round < 10; ++round, k += 0x9E3779B9, l += 0xBB67AE85) {
    const uint64_t left = (uint64_t)0xD2511F53 * a, right = (uint64_t)0xCD9E8D57 * c;
    a = (uint32_t)(right >> 32) ^ b ^ k, b = (uint32_t)right;
    c = (uint32_t)(left >> 32) ^ d ^ l, d = (uint32_t)left;
  }
  return {a, b};
}
""",
    ("uniform", "normal"): """
template <typename T> static inline T uniform(Words w) {
  return (T)(int32_t)(w.a >> 8) * (T)5.9604644775390625e-08;
}
""",
    ("rademacher",): """
template <typename T> static inline T rademacher(Words w) { return w.a >> 31 ? (T)1 : (T)-1; }
""",
    ("normal",): """
static inline float logarithm(float x) { return logf(x); }
static inline double logarithm(double x) { return log(x); }
static inline float cosine(float x) { return cosf(x); }
static inline double cosine(double x) { return cos(x); }
static inline float root(float x) { return __builtin_sqrtf(x); }
static inline double root(double x) { return __builtin_sqrt(x); }
template <typename T> static inline T normal(Words w) {
  const T u = (T)(int32_t)((w.a >> 8) + 1) * (T)5.9604644775390625e-08, v = uniform<T>({w.b, 0});
  return root(-2 * logarithm(u)) * cosine((T)6.283185307179586 * v);
}
""",
    ("at_random",): """
// Up or down: 16 random bits carry from what bfloat16 does not hold.
static inline bfloat16 at_random(float x, Words w) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (bits & 0x7f800000) == 0x7f800000 ? to_bfloat16(x) : (bits + (w.a >> 16)) >> 16;
}
""",
}
"""What a kernel may call, by the words that show it."""
