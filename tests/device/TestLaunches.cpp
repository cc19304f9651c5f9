#include <memory>
#include <set>

#include "Test.h"

using namespace test;

TEST(ClosureLifeCycle) {
  auto token = std::make_shared<int>(7);
  Gate gate;
  int got = 0;
  OK(launch(nullptr, "gate", [&] { gate.wait(); }));
  OK(launch(nullptr, "use", [&got, token] { got = *token; }));
  EXPECT_EQ(token.use_count(), 2l); // moved, not copied
  gate.open();
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(got, 7);
  EXPECT_EQ(token.use_count(), 1l); // destroyed before it counted as done
}

TEST(FailedLaunchLeavesTheClosure) {
  auto token = std::make_shared<int>(7);
  auto kernel = [token] { EXPECT(false); };
  using Kernel = decltype(kernel);
  orStream_t stream;
  OK(orStreamCreate(&stream));
  OK(orStreamDestroy(stream));
  FAILS(orLaunch(stream, "never", &ClosureOf<Kernel>::type, &kernel), orErrorInvalidResourceHandle,
        "destroyed");
  EXPECT_EQ(token.use_count(), 2l);
}

TEST(LargeAndAlignedClosures) {
  struct Large {
    char bytes[100000];
  };
  auto large = std::make_unique<Large>();
  memset(large->bytes, 3, sizeof(large->bytes));
  auto* raw = large.get();
  int sum = 0;
  struct Kernel {
    Large data;
    int* sum;
  };
  static const orClosureType type = {sizeof(Kernel),
                                     alignof(Kernel),
                                     nullptr,
                                     [](void* closure, const orLaunchContext*) {
                                       auto* kernel = static_cast<Kernel*>(closure);
                                       for (char byte : kernel->data.bytes) {
                                         *kernel->sum += byte;
                                       }
                                       return orSuccess;
                                     },
                                     nullptr,
                                     nullptr};
  auto kernel = std::make_unique<Kernel>(Kernel{*raw, &sum});
  for (int i = 0; i < 50; ++i) {
    OK(orLaunch(nullptr, "large", &type, kernel.get()));
  }
  kernel.reset();
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(sum, 50 * 300000);

  struct alignas(64) Aligned {
    char bytes[64];
  };
  bool aligned = false;
  for (int i = 0; i < 3; ++i) {
    OK(launch(nullptr, "small", [i] { (void)i; }));
    OK(launch(nullptr, "aligned", [data = Aligned(), &aligned] {
      aligned = reinterpret_cast<uintptr_t>(&data) % 64 == 0;
    }));
  }
  OK(orStreamSynchronize(nullptr));
  EXPECT(aligned);
}

TEST(ClosuresOfEverySize) {
  // Around the limit of what lies in the queue, and across its end.
  struct Kernel {
    size_t size;
    size_t* sum;
  };
  static std::vector<orClosureType> types;
  for (size_t size = 16; size <= OR_INLINE_CLOSURE_SIZE + 64; size += 8) {
    types.push_back({size, 8, nullptr,
                     [](void* closure, const orLaunchContext*) {
                       auto* kernel = static_cast<Kernel*>(closure);
                       auto* bytes = static_cast<unsigned char*>(closure);
                       for (size_t i = sizeof(Kernel); i < kernel->size; ++i) {
                         EXPECT_EQ(int(bytes[i]), int(kernel->size & 0xff));
                       }
                       *kernel->sum += kernel->size;
                       return orSuccess;
                     },
                     nullptr, nullptr});
  }
  size_t sum = 0, expected = 0;
  for (int round = 0; round < 5; ++round) {
    for (const orClosureType& type : types) {
      alignas(8) unsigned char bytes[OR_INLINE_CLOSURE_SIZE + 64];
      memset(bytes, int(type.size & 0xff), sizeof(bytes));
      new (bytes) Kernel{type.size, &sum};
      OK(orLaunch(nullptr, "sized", &type, bytes));
      expected += type.size;
    }
  }
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(sum, expected);
}

TEST(ContextTellsAboutTheLaunch) {
  orStream_t stream;
  OK(orSetDevice(1));
  OK(orStreamCreate(&stream));
  std::set<uint64_t> correlations;
  for (uint64_t i = 1; i <= 10; ++i) {
    OK(launch(stream, "named", [&, stream, i](const orLaunchContext* context) {
      EXPECT(context->stream == stream);
      EXPECT_EQ(context->device, 1);
      EXPECT_EQ(context->sequence, i);
      EXPECT(!strcmp(context->name, "named"));
      EXPECT(correlations.insert(context->correlation).second);
    }));
  }
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(correlations.size(), size_t(10));
}

TEST(BadLaunches) {
  int closure = 0;
  orClosureType type = {sizeof(int), alignof(int),
                        nullptr,     [](void*, const orLaunchContext*) { return orSuccess; },
                        nullptr,     nullptr};
  FAILS(orLaunch(nullptr, nullptr, &type, &closure), orErrorInvalidValue, "name is NULL");
  FAILS(orLaunch(nullptr, "x", nullptr, &closure), orErrorInvalidValue, "type is NULL");
  FAILS(orLaunch(nullptr, "x", &type, nullptr), orErrorInvalidValue, "closure is NULL");
  type.alignment = 128;
  FAILS(orLaunch(nullptr, "x", &type, &closure), orErrorInvalidValue, "got 128");
  type.alignment = 4;
  type.invoke = nullptr;
  FAILS(orLaunch(nullptr, "x", &type, &closure), orErrorInvalidValue, "invoke is NULL");
}

TEST(InternedNames) {
  std::string name = "aten::add";
  const char* first = orInternName(name.c_str());
  name[6] = 'x';
  EXPECT(!strcmp(first, "aten::add"));
  EXPECT(orInternName("aten::add") == first);
  EXPECT(orInternName("aten::xdd") != first);
}
