#include <unistd.h>

#include <algorithm>
#include <thread>

#include "Test.h"

using namespace test;

namespace {

std::vector<unsigned char> pattern(size_t size, int seed = 0) {
  std::vector<unsigned char> bytes(size);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<unsigned char>(i * 31 + (i >> 8) + seed);
  }
  return bytes;
}

} // namespace

TEST(CopiesInAllDirections) {
  for (size_t size : {size_t(1), size_t(4096), size_t(100001), size_t(3) << 20}) {
    auto in = pattern(size);
    std::vector<unsigned char> out(size), host(size);
    void *a, *b;
    OK(orMalloc(&a, size));
    OK(orMalloc(&b, size));
    OK(orMemcpy(a, in.data(), size, orMemcpyHostToDevice));
    OK(orMemcpy(b, a, size, orMemcpyDeviceToDevice));
    OK(orMemcpy(out.data(), b, size, orMemcpyDeviceToHost));
    EXPECT(in == out);
    OK(orMemcpy(host.data(), out.data(), size, orMemcpyHostToHost));
    EXPECT(in == host);
    // By the pointers.
    std::fill(out.begin(), out.end(), 0);
    OK(orMemset(a, 0, size));
    OK(orMemcpy(a, in.data(), size, orMemcpyDefault));
    OK(orMemcpy(out.data(), a, size, orMemcpyDefault));
    EXPECT(in == out);
    OK(orFree(a));
    OK(orFree(b));
  }
}

TEST(PinnedCopiesAreAsynchronous) {
  const size_t size = 1 << 20;
  orStream_t stream;
  OK(orStreamCreate(&stream));
  void *device, *pinned, *back;
  OK(orMalloc(&device, size));
  OK(orHostAlloc(&pinned, size, 0));
  OK(orHostAlloc(&back, size, 0));
  memset(pinned, 1, size);
  memset(back, 0, size);
  Gate gate;
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  OK(orMemcpyAsync(device, pinned, size, orMemcpyHostToDevice, stream));
  OK(orMemcpyAsync(back, device, size, orMemcpyDeviceToHost, stream));
  OK(orMemsetAsync(device, 9, size, stream));
  memset(pinned, 2, size); // read when its turn comes, as by a DMA engine
  EXPECT_EQ(int(static_cast<char*>(back)[size - 1]), 0);
  gate.open();
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(int(static_cast<char*>(back)[size - 1]), 2);
  EXPECT_EQ(int(backing<char>(device)[5]), 9);
  OK(orFreeHost(pinned));
  OK(orFreeHost(back));
}

TEST(SmallPageableSourcesAreStaged) {
  for (size_t size : {size_t(8), size_t(1500), size_t(3000), size_t(64) << 10}) {
    orStream_t stream;
    OK(orStreamCreate(&stream));
    void* device;
    OK(orMalloc(&device, size));
    Gate gate;
    OK(launch(stream, "gate", [&] { gate.wait(); }));
    auto bytes = pattern(size), expected = bytes;
    OK(orMemcpyAsync(device, bytes.data(), size, orMemcpyHostToDevice, stream));
    std::fill(bytes.begin(), bytes.end(), 0); // ours again, the gate still closed
    EXPECT_EQ(orStreamQuery(stream), orErrorNotReady);
    gate.open();
    OK(orStreamSynchronize(stream));
    EXPECT(!memcmp(orBacking(device), expected.data(), size));
    OK(orFree(device));
    OK(orStreamDestroy(stream));
  }
}

TEST(PageableTargetsAreWaitedFor) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  void* device;
  OK(orMalloc(&device, 1 << 20));
  OK(launch(stream, "fill", [=] {
    usleep(5000);
    memset(orBacking(device), 3, 1 << 20);
  }));
  std::vector<char> host(1 << 20);
  OK(orMemcpyAsync(host.data(), device, host.size(), orMemcpyDeviceToHost, stream));
  EXPECT_EQ(int(host.back()), 3); // no synchronize
  // A large pageable source: read when the call returns, and in order.
  std::vector<char> large(1 << 20, 4);
  OK(launch(stream, "fill", [=] {
    usleep(5000);
    memset(orBacking(device), 5, 1 << 20);
  }));
  OK(orMemcpyAsync(device, large.data(), large.size(), orMemcpyHostToDevice, stream));
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(int(backing<char>(device)[77]), 4);
}

TEST(SynchronousCopiesFollowTheDefaultStream) {
  void* device;
  OK(orMalloc(&device, 64));
  OK(launch(nullptr, "slow", [=] {
    usleep(5000);
    memset(orBacking(device), 6, 64);
  }));
  char host[64];
  OK(orMemcpy(host, device, 64, orMemcpyDeviceToHost));
  EXPECT_EQ(int(host[63]), 6);
  OK(launch(nullptr, "slow", [=] { memset(orBacking(device), 7, 64); }));
  OK(orMemset(device, 8, 64));
  EXPECT_EQ(int(backing<char>(device)[0]), 8);
  // Another stream is not waited for.
  orStream_t other;
  OK(orStreamCreate(&other));
  Gate gate;
  OK(launch(other, "gate", [&] { gate.wait(); }));
  OK(orMemcpy(host, device, 64, orMemcpyDeviceToHost));
  EXPECT_EQ(int(host[63]), 8);
  gate.open();
  OK(orStreamSynchronize(other));
}

TEST(Copies2D) {
  const size_t pitch = 96, width = 40, height = 7;
  auto in = pattern(pitch * height);
  void *a, *b;
  OK(orMalloc(&a, pitch * height));
  OK(orMalloc(&b, width * height));
  OK(orMemset(a, 0xee, pitch * height));
  OK(orMemcpy2D(a, pitch, in.data(), pitch, width, height, orMemcpyHostToDevice));
  OK(orMemcpy2DAsync(b, width, a, pitch, width, height, orMemcpyDeviceToDevice, nullptr));
  std::vector<unsigned char> out(width * height);
  OK(orMemcpy2D(out.data(), width, b, width, width, height, orMemcpyDeviceToHost));
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = 0; x < pitch; ++x) {
      EXPECT_EQ(int(backing<unsigned char>(a)[y * pitch + x]),
                x < width ? int(in[y * pitch + x]) : 0xee);
      if (x < width) {
        EXPECT_EQ(int(out[y * width + x]), int(in[y * pitch + x]));
      }
    }
  }
  // Staged.
  OK(orMemset(b, 0, width * height));
  auto staged = in;
  OK(orMemcpy2DAsync(b, width, staged.data(), pitch, width, height, orMemcpyDefault, nullptr));
  std::fill(staged.begin(), staged.end(), 0);
  OK(orStreamSynchronize(nullptr));
  EXPECT(!memcmp(orBacking(b), out.data(), out.size()));
  // The last row need not be a whole pitch long.
  OK(orMemcpy2D(static_cast<char*>(a) + pitch - width, pitch, b, width, width, height,
                orMemcpyDefault));
  FAILS(orMemcpy2D(a, pitch, in.data(), pitch, width, height + 1, orMemcpyDefault),
        orErrorInvalidValue, "dst: ");
  FAILS(orMemcpy2D(a, width - 1, in.data(), pitch, width, height, orMemcpyDefault),
        orErrorInvalidValue, "dst_pitch");
  FAILS(orMemcpy2D(a, SIZE_MAX / 2, in.data(), pitch, width, height, orMemcpyDefault),
        orErrorInvalidValue, "overflow");
  OK(orMemcpy2D(a, 0, in.data(), 0, 0, height, orMemcpyDefault));
}

TEST(PeerCopies) {
  const size_t size = 100000;
  auto in = pattern(size);
  std::vector<unsigned char> out(size);
  void *a, *b;
  OK(orMalloc(&a, size));
  OK(orSetDevice(1));
  OK(orMalloc(&b, size));
  OK(orMemcpy(a, in.data(), size, orMemcpyHostToDevice));
  OK(orMemcpyPeer(b, 1, a, 0, size));
  OK(orMemcpy(out.data(), b, size, orMemcpyDeviceToHost));
  EXPECT(in == out);
  OK(orMemset(a, 0, size));
  OK(orMemcpyPeerAsync(a, 0, b, 1, size, nullptr));
  OK(orStreamSynchronize(nullptr));
  EXPECT(!memcmp(orBacking(a), in.data(), size));
  OK(orMemset(b, 0, size));
  OK(orMemcpyAsync(b, a, size, orMemcpyDeviceToDevice, nullptr));
  OK(orStreamSynchronize(nullptr));
  EXPECT(!memcmp(orBacking(b), in.data(), size));
  FAILS(orMemcpyPeer(b, 0, a, 0, size), orErrorInvalidDevicePointer, "must be memory of device 0");
  FAILS(orMemcpyPeer(b, 1, in.data(), 0, size), orErrorInvalidCopyDirection, "src");
  FAILS(orMemcpyPeer(b, 2, a, 0, size), orErrorInvalidDevice, "dst_device");
}

TEST(WrongCopies) {
  void* device;
  OK(orMalloc(&device, 1000));
  char* middle = static_cast<char*>(device) + 500;
  std::vector<char> host(2000);
  FAILS(orMemcpy(host.data(), host.data() + 1000, 10, orMemcpyHostToDevice),
        orErrorInvalidCopyDirection, "kind is orMemcpyHostToDevice, but dst");
  FAILS(orMemcpy(device, host.data(), 10, orMemcpyDeviceToHost), orErrorInvalidCopyDirection,
        "dst");
  FAILS(orMemcpy(device, host.data(), 10, orMemcpyDeviceToDevice), orErrorInvalidCopyDirection,
        "src");
  FAILS(orMemcpy(device, host.data(), 10, static_cast<orMemcpyKind>(9)),
        orErrorInvalidCopyDirection, "got 9");
  FAILS(orMemcpy(middle, host.data(), 501, orMemcpyHostToDevice), orErrorInvalidValue,
        "dst: 501 bytes");
  FAILS(orMemcpyAsync(host.data(), middle, 501, orMemcpyDefault, nullptr), orErrorInvalidValue,
        "src: 501 bytes");
  FAILS(orMemcpy(device, host.data(), SIZE_MAX, orMemcpyHostToDevice), orErrorInvalidValue,
        "dst: ");
  FAILS(orMemcpy(nullptr, host.data(), 8, orMemcpyHostToDevice), orErrorInvalidValue,
        "dst is NULL");
  FAILS(orMemcpy(device, static_cast<char*>(device) + 4, 8, orMemcpyDefault), orErrorInvalidValue,
        "overlap");
  FAILS(orMemset(host.data(), 0, 8), orErrorInvalidDevicePointer, "host memory");
  FAILS(orMemset(device, 0, 1001), orErrorInvalidValue, "1001 bytes");
  void* pinned;
  OK(orHostAlloc(&pinned, 100, 0));
  FAILS(orMemcpy(device, pinned, 101, orMemcpyHostToDevice), orErrorInvalidValue,
        "pinned allocation of 100");
  OK(orFree(device));
  FAILS(orMemcpy(device, host.data(), 8, orMemcpyHostToDevice), orErrorInvalidDevicePointer,
        "not allocated");
  OK(orMemcpy(nullptr, nullptr, 0, orMemcpyDefault));
}
