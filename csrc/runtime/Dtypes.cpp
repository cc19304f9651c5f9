#include "runtime/Dtypes.h"

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <vector>

#include "device/openreg_profile.h"
#include "runtime/Functions.h"

namespace c10::openreg {

std::atomic<bool> some_dtype_is_missing{true};

namespace {

constexpr std::pair<ScalarType, unsigned> kDtypes[] = {
    {kBool, orDtypeBool},
    {kByte, orDtypeUint8},
    {kChar, orDtypeInt8},
    {kUInt16, orDtypeUint16},
    {kShort, orDtypeInt16},
    {kUInt32, orDtypeUint32},
    {kInt, orDtypeInt32},
    {kUInt64, orDtypeUint64},
    {kLong, orDtypeInt64},
    {kFloat4_e2m1fn_x2, orDtypeFloat4E2m1fnX2},
    {kFloat8_e4m3fn, orDtypeFloat8E4m3fn},
    {kFloat8_e4m3fnuz, orDtypeFloat8E4m3fnuz},
    {kFloat8_e5m2, orDtypeFloat8E5m2},
    {kFloat8_e5m2fnuz, orDtypeFloat8E5m2fnuz},
    {kFloat8_e8m0fnu, orDtypeFloat8E8m0fnu},
    {kHalf, orDtypeFloat16},
    {kBFloat16, orDtypeBfloat16},
    {kFloat, orDtypeFloat32},
    {kDouble, orDtypeFloat64},
    {kComplexHalf, orDtypeComplex32},
    {kComplexFloat, orDtypeComplex64},
    {kComplexDouble, orDtypeComplex128},
};

unsigned bit_of(ScalarType dtype) {
  for (const auto& [known, bit] : kDtypes) {
    if (known == dtype) {
      return bit;
    }
  }
  return 0;
}

// What each device has, a set of orDtype.
const std::vector<unsigned>& dtypes_of_devices() {
  static const std::vector<unsigned> dtypes = [] {
    std::vector<unsigned> sets(device_count());
    bool any_missing = false;
    for (size_t i = 0; i < sets.size(); ++i) {
      OPENREG_CHECK(orDeviceGetDtypes(&sets[i], static_cast<int>(i)));
      any_missing |= sets[i] != orDtypeAll;
    }
    some_dtype_is_missing.store(any_missing, std::memory_order_relaxed);
    return sets;
  }();
  return dtypes;
}

} // namespace

bool has_dtype(DeviceIndex device, ScalarType dtype) {
  check_device(device);
  return (bit_of(dtype) & ~dtypes_of_devices()[device]) == 0;
}

void check_dtype_of_device(DeviceIndex device, ScalarType dtype) {
  if (C10_LIKELY(has_dtype(device, dtype))) {
    return;
  }
  orDeviceProp properties;
  OPENREG_CHECK(orGetDeviceProperties(&properties, device));
  std::string names;
  for (const auto& [known, bit] : kDtypes) {
    if (has_dtype(device, known)) {
      names += c10::str(names.empty() ? "" : ", ", getDtypeNames(known).first);
    }
  }
  // Not a TypeError, which Python's operators take for that of the other operand.
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "Cannot make a tensor of dtype ", getDtypeNames(dtype).first,
      " on openreg:", static_cast<int>(device), " (", properties.name,
      "), which does not support it. Please use one of its dtypes instead: ", names,
      " (OPENREG_PROFILE).");
}

} // namespace c10::openreg
