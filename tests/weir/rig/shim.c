/* What tests preload into weir: a wall clock that is set, and a disk that fails, is slow, or stands still.
 * Told by words of a shared file (shim.rs), at any time. Everything else is the kernel's answer. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct told {
    volatile int64_t clock_ms; /* how far the wall clock is ahead */
    volatile int64_t sync_ms;  /* how long fdatasync takes more */
    volatile int64_t stuck;    /* fdatasync does not return while this is 1 */
    volatile int64_t fail_at;  /* this fdatasync and `fails` in all fail with EIO; the first is 1 */
    volatile int64_t fails;
    int64_t begun; /* fdatasyncs so far */
    int64_t ended;
    int64_t failed;
    volatile int64_t held; /* 1 while one is stuck */
    int64_t none[7];
    char file[64]; /* all of this for files with this in their path */
};

static struct told *told;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("WEIR_SHIM");
    if (!path) return;
    int fd = open(path, O_RDWR);
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || at == MAP_FAILED) abort();
    close(fd);
    told = at;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = at->tv_nsec + told->clock_ms % 1000 * 1000000;
        at->tv_sec += told->clock_ms / 1000 + (ns >= 1000000000) - (ns < 0);
        at->tv_nsec = (ns + 1000000000) % 1000000000;
    }
    return result;
}

int fdatasync(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (!told || !strstr(path, told->file)) return (int)syscall(SYS_fdatasync, fd);
    int64_t number = __atomic_add_fetch(&told->begun, 1, __ATOMIC_SEQ_CST);
    while (told->stuck) {
        told->held = 1;
        usleep(1000);
    }
    told->held = 0;
    if (told->sync_ms) usleep((useconds_t)told->sync_ms * 1000);
    int result = 0;
    if (number >= told->fail_at && number < told->fail_at + told->fails) {
        __atomic_add_fetch(&told->failed, 1, __ATOMIC_SEQ_CST);
        errno = EIO;
        result = -1;
    } else {
        result = (int)syscall(SYS_fdatasync, fd);
    }
    int error = errno;
    __atomic_add_fetch(&told->ended, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return result;
}
