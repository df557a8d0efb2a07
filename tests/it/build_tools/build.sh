# Builds a little of everything, and says what worked.
set -euo pipefail
export HOME=/tmp
mkdir /tmp/work
cd /tmp/work

cat >threads.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int counted;
static void *count(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) { pthread_mutex_lock(&lock); counted++; pthread_mutex_unlock(&lock); }
    return NULL;
}
int main(void) {
    pthread_t threads[8];
    int ends[2], status;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 8; i++) if (pthread_create(&threads[i], NULL, count, NULL)) return 1;
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    if (pipe(ends) || page == MAP_FAILED) return 2;
    pid_t child = fork();
    if (child == 0) { strcpy(page, "shared"); return write(ends[1], "x", 1) == 1 ? 0 : 1; }
    char *heap = malloc(64), byte;
    if (child < 0 || read(ends[0], &byte, 1) != 1 || waitpid(child, &status, 0) != child || status || strcmp(page, "shared")) return 3;
    free(heap);
    return counted == 8000 ? 0 : 4;
}
END
gcc -O1 -Wall -pthread threads.c -o threads
./threads
echo 'done: compiler'

# The way of 32 bits to a socket of a virtual machine's host, which only asks the kernel when it is not refused before. A kernel without 32 bits kills it.
if [ "$(uname -m)" = x86_64 ]; then
    cat >socketcall.c <<'END'
#include <sys/mman.h>
int main(void) {
    unsigned *arguments = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    int result;
    arguments[0] = 40;
    arguments[1] = 1;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"((unsigned)(unsigned long)arguments) : "memory");
    return result == -38 ? 0 : 1;
}
END
    gcc -O1 socketcall.c -o socketcall
    ./socketcall || [ $? -gt 128 ]
fi
echo 'done: refused'

for part in 1 2 3 4 5 6; do echo "int part$part(void) { return $part; }" >"part$part.c"; done
printf 'all: $(patsubst %%.c,%%.o,$(wildcard part*.c))\n\t$(AR) rcs all.a $^\n%%.o: %%.c\n\t$(CC) -O2 -g -c $< -o $@\n' >Makefile
make -j4 >/dev/null
[ "$(ar t all.a | wc -l)" = 6 ]
echo 'done: make'

# Its search for leaks stops all threads as a debugger does.
gcc -g -fsanitize=address,undefined -pthread threads.c -o checked
ASAN_OPTIONS=detect_leaks=1 ./checked
echo 'done: sanitizer'

git init -q repository
cp threads.c repository
git -C repository add .
git -C repository -c user.email=nobody@example.com -c user.name=Nobody commit -qm 'the first'
git -C repository gc -q
git clone -q repository copy
[ "$(git -C copy log --oneline | wc -l)" = 1 ]
echo 'done: git'

python3 - <<'END'
import asyncio, multiprocessing, socket, subprocess, tempfile, threading

def double(number):
    return 2 * number

async def echo():
    server = await asyncio.start_server(lambda reader, writer: writer.write(b"hello\n") or writer.close(), "127.0.0.1", 0)
    reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    return await reader.readline()

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(double, range(10)) == [2 * number for number in range(10)]
    with multiprocessing.get_context("fork").Manager() as manager:
        assert manager.list([1])[0] == 1
    assert asyncio.run(echo()) == b"hello\n"
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
    socket.getaddrinfo("127.0.0.1", 80)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 100000)
    thread = threading.Thread(target=double, args=(1,))
    thread.start()
    thread.join()
END
echo 'done: python'

mkfifo pipe
cat pipe >copied &
tar -c repository | gzip | tee pipe | gzip -d | tar -t | grep threads.c >/dev/null
wait
diff <(echo same) <(echo same)
[ -s copied ]
find . -name '*.o' | xargs -n 2 -P 3 sh -c 'test -s "$0"'
perl -e 'exit(system("true") == 0 ? 0 : 1)'
echo 'done: shell'
