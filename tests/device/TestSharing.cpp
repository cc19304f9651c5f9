#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "Test.h"
#include "openreg_ipc.h"

using namespace test;

namespace {

constexpr size_t kSize = 3 * 4096 + 100;

std::vector<char> read(void* pointer, size_t size) {
  std::vector<char> bytes(size);
  OK(orMemcpy(bytes.data(), pointer, size, orMemcpyDeviceToHost));
  return bytes;
}

// For a child that was started with it.
int inherited() {
  return atoi(getenv("SHARED_FILE"));
}

std::string inheritable(int file) {
  return "SHARED_FILE=" + std::to_string(dup(file)); // without close-on-exec
}

size_t freeMemory() {
  size_t free, total;
  OK(orMemGetInfo(&free, &total));
  return free;
}

} // namespace

CHILD(ChildOpensSharedMemory) {
  void* shared;
  size_t size;
  OK(orOpenShared(&shared, inherited(), &size));
  EXPECT_EQ(size, kSize);
  EXPECT_EQ(read(shared, kSize)[kSize - 1], 7);
  OK(orMemset(shared, 9, kSize));
  raise(SIGKILL);
}

TEST(SharedMemoryIsOneMemory) {
  void* shared;
  int file;
  OK(orMallocShared(&shared, kSize, &file));
  OK(orMemset(shared, 7, kSize));
  EXPECT_EQ(runChild("ChildOpensSharedMemory", inheritable(file).c_str()).status, SIGKILL);
  EXPECT_EQ(read(shared, kSize)[0], 9);
  EXPECT_EQ(read(shared, kSize)[kSize - 1], 9);
  void* again;
  size_t size;
  OK(orSetDevice(1));
  OK(orOpenShared(&again, file, &size));
  EXPECT(again != shared);
  OK(orMemset(again, 3, 1));
  EXPECT_EQ(read(shared, 1)[0], 3);
  // The memory outlives the block it was allocated as.
  OK(orFree(shared));
  EXPECT_EQ(read(again, 2)[0], 3);
  EXPECT_EQ(read(again, 2)[1], 9);
  OK(orFree(again));
  close(file);
}

TEST(SharedBlocksGiveAddressesAndCapacityBack) {
  size_t before = freeMemory();
  for (int round = 0; round < 100; ++round) {
    void* shared;
    int file;
    OK(orMallocShared(&shared, kSize, &file));
    EXPECT_EQ(before - freeMemory(), size_t(4 * 4096));
    OK(orMemset(shared, 1, kSize));
    close(file);
    OK(orFree(shared));
    EXPECT_EQ(freeMemory(), before);
    void* other; // takes the same addresses, and sees nothing of the file
    OK(orMalloc(&other, kSize));
    OK(orMemset(other, 0, kSize));
    EXPECT_EQ(read(other, kSize)[kSize - 1], 0);
    OK(orFree(other));
  }
}

TEST(ResetEndsSharedBlocks) {
  void* shared;
  int file;
  OK(orMallocShared(&shared, kSize, &file));
  OK(orMemset(shared, 5, kSize));
  OK(orDeviceReset());
  void* memory;
  OK(orMalloc(&memory, kSize));
  OK(orMemset(memory, 1, kSize));
  void* again;
  size_t size;
  OK(orOpenShared(&again, file, &size));
  EXPECT_EQ(read(again, 1)[0], 5);
  close(file);
}

TEST(SharingRefusesWhatItCannotShare) {
  void* pointer;
  int file;
  size_t size;
  FAILS(orMallocShared(nullptr, 1, &file), orErrorInvalidValue, "pointer is NULL");
  FAILS(orMallocShared(&pointer, 1, nullptr), orErrorInvalidValue, "file is NULL");
  FAILS(orMallocShared(&pointer, 0, &file), orErrorInvalidValue, "size must be positive");
  FAILS(orMallocShared(&pointer, size_t(1) << 50, &file), orErrorMemoryAllocation, "bytes");
  FAILS(orOpenShared(&pointer, -1, &size), orErrorInvalidValue, "got -1");
  int other = open("/dev/null", O_RDONLY);
  FAILS(orOpenShared(&pointer, other, &size), orErrorInvalidValue,
        "descriptor from orMallocShared");
  close(other);
}
