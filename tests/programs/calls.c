/* Makes system calls by number, each word one, and prints what they give: a value, or an errno below zero.
 *
 *   64:NUMBER[:ARGUMENT...]   a native call
 *   32:NUMBER[:ARGUMENT...]   a call of the 32-bit architecture (int 0x80)
 *   thread:NUMBER             a native call by a second thread, which is then waited for
 *   handle                    from here on SIGSYS is handled: it prints the number and ends the process with 0
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long call64(const unsigned long *a)
{
	long value = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
	return value == -1 ? -errno : value;
}

static long call32(const unsigned long *a)
{
#ifdef __x86_64__
	int value;
	__asm__ volatile("int $0x80" : "=a"(value) : "0"(a[0]), "b"(a[1]), "c"(a[2]), "d"(a[3]) : "memory", "r8", "r9", "r10", "r11");
	return value;
#else
	(void)a;
	return -ENOSYS;
#endif
}

static void handle(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	printf("SIGSYS for %d\n", info->si_syscall);
	fflush(stdout);
	_exit(0);
}

static void *in_thread(void *a)
{
	call64(a);
	return NULL;
}

int main(int count, char **words)
{
	for (int n = 1; n < count; n++) {
		unsigned long a[7] = {0};
		int at = 0;
		char *part = strtok(words[n], ":");
		const char *kind = part;
		while ((part = strtok(NULL, ":")) && at < 7)
			a[at++] = strtoul(part, NULL, 0);
		if (!strcmp(kind, "handle")) {
			struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
			sigaction(SIGSYS, &action, NULL);
		} else if (!strcmp(kind, "thread")) {
			pthread_t thread;
			if (pthread_create(&thread, NULL, in_thread, a) || pthread_join(thread, NULL))
				return 1;
			printf("joined\n");
		} else {
			printf("%ld\n", !strcmp(kind, "32") ? call32(a) : call64(a));
		}
		fflush(stdout);
	}
	return 0;
}
